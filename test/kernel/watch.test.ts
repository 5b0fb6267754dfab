/** Watch: level-triggered callbacks on the event loop, their exceptions, and their end. */
import assert from 'node:assert/strict';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { UnixSocket, type Watch, watch } from 'pagefault/kernel';
import { openFds, openFifo, until } from '../helpers/descriptors.js';
import { run } from '../helpers/run.js';

const TIMEOUT = { timeout: 60_000 };
const byte = Buffer.alloc(1);

test('the callback runs when the descriptor becomes readable, and again as long as it is', TIMEOUT, async () => {
  const before = openFds();
  const fd = openFifo();
  let calls = 0;
  const watching = watch(fd, () => {
    calls++;
    if (calls > 20) readSync(fd, byte);
  });
  await sleep(30);
  assert.equal(calls, 0);
  writeSync(fd, 'x');
  await until(() => calls > 20);
  const after = calls;
  await sleep(30);
  assert.equal(calls, after);
  watching.close();
  closeSync(fd);
  assert.equal(openFds(), before);
});

test('what is readable again at once is served in the same turn of the loop, a few times', TIMEOUT, async () => {
  const fd = openFifo();
  const turns: number[] = [];
  let turn = 0;
  const tick = (): void => {
    turn++;
    if (turn < 1000) setImmediate(tick);
  };
  writeSync(fd, 'x'.repeat(8));
  using watching = watch(fd, () => {
    readSync(fd, byte);
    turns.push(turn);
  });
  setImmediate(tick);
  await until(() => turns.length === 8);
  assert.deepEqual(turns.slice(0, 4), Array(4).fill(turns[0]));
  assert.deepEqual(turns.slice(4), Array(4).fill(turns[4]));
  assert.notEqual(turns[0], turns[4]);
  watching.close();
  closeSync(fd);
});

test(
  'a watch closed in its own callback is not called again, and the descriptor can be watched anew',
  TIMEOUT,
  async () => {
    const fd = openFifo();
    let calls = 0;
    writeSync(fd, 'x');
    for (let round = 1; round <= 50; round++) {
      const watching: Watch = watch(fd, () => {
        calls++;
        watching.close();
        watching.close();
      });
      await until(() => calls === round);
      assert.equal(watching.closed, true);
    }
    await sleep(20);
    assert.equal(calls, 50);
    closeSync(fd);
  },
);

test('promises of a callback are settled before the loop goes on', TIMEOUT, async () => {
  const fd = openFifo();
  const order: string[] = [];
  writeSync(fd, 'x');
  using watching = watch(fd, () => {
    readSync(fd, byte);
    queueMicrotask(() => order.push('microtask'));
    process.nextTick(() => order.push('tick'));
    setImmediate(() => order.push('immediate'));
  });
  await until(() => order.length === 3);
  assert.deepEqual(order, ['tick', 'microtask', 'immediate']);
  watching.close();
  closeSync(fd);
});

test('a descriptor is watched once a thread, until that watch is closed', TIMEOUT, async () => {
  const fd = openFifo();
  using watching = watch(fd, () => {});
  assert.throws(() => watch(fd, () => {}), {
    code: 'ERR_PAGEFAULT_SYSTEM',
    name: 'SystemError',
    message: /is watched on this thread already/,
  });
  watching.close();
  watch(fd, () => {}).close();
  closeSync(fd);
});

test('what cannot be watched is refused in a sentence', TIMEOUT, () => {
  const before = openFds();
  const file = openSync('/proc/self/exe', 'r');
  const folder = openSync('/', 'r');
  for (const fd of [file, folder]) {
    assert.throws(() => watch(fd, () => {}), { name: 'DescriptorError', message: /file or a directory/ });
  }
  closeSync(file);
  closeSync(folder);
  assert.throws(() => watch(file, () => {}), { name: 'DescriptorError', message: /is not open/ });
  assert.throws(() => watch(-1, () => {}), { name: 'RangeError', message: /not -1$/ });
  assert.throws(() => watch(Number.NaN, () => {}), RangeError);
  assert.throws(() => watch(1.5, () => {}), RangeError);
  assert.throws(() => watch(2 ** 31, () => {}), RangeError);
  assert.throws(() => watch('0' as unknown as number, () => {}), TypeError);
  assert.throws(() => watch(0, 7 as unknown as () => void), { name: 'TypeError', message: /callback/ });
  assert.throws(() => watch(0, () => {}, { keepalive: true } as object), { message: /did you mean 'keepAlive'/ });
  assert.throws(() => watch(0, () => {}, { keepAlive: 1 as unknown as boolean }), TypeError);
  assert.equal(openFds(), before);
});

test('hundreds of watches come and go without a trace', TIMEOUT, async () => {
  const before = openFds();
  const fds = Array.from({ length: 100 }, openFifo);
  let calls = 0;
  const watches = fds.map((fd) =>
    watch(fd, () => {
      calls += readSync(fd, byte);
    }),
  );
  for (const fd of fds) writeSync(fd, 'x');
  await until(() => calls === 100);
  for (const each of watches) each.close();
  for (const fd of fds) closeSync(fd);
  assert.equal(openFds(), before);
});

test('a Worker that ends takes its watches with it, also in the middle of a callback', TIMEOUT, async () => {
  const fd = openFifo();
  const source = (body: string): string => `
    const { workerData, parentPort } = require('node:worker_threads');
    import('pagefault/kernel').then(({ watch }) => {
      watch(workerData, () => { parentPort.postMessage('called'); ${body} });
      parentPort.postMessage('ready');
    });`;
  for (const body of ['', 'process.exit();', 'for (;;);', "throw new Error('of the callback');"]) {
    const worker = new Worker(source(body), { eval: true, workerData: fd });
    const messages: string[] = [];
    let ended = false;
    worker.on('message', (message: string) => messages.push(message));
    worker.on('error', (error: Error) => messages.push(error.message));
    worker.on('exit', () => {
      ended = true;
    });
    await until(() => messages.includes('ready'));
    writeSync(fd, 'x');
    await until(() => messages.includes(body.startsWith('throw') ? 'of the callback' : 'called'));
    await worker.terminate();
    await until(() => ended);
    readSync(fd, byte);
  }
  closeSync(fd);
});

const program = (body: string): string[] => [
  '--input-type=module',
  '-e',
  `import { watch } from 'pagefault/kernel';
   import { openSync, readSync, writeSync } from 'node:fs';
   const fd = openSync('/dev/ptmx', 'r+');
   ${body}`,
];

test('a watch keeps the process alive, unless it is told not to', TIMEOUT, async () => {
  const quiet = (body: string) => run(process.execPath, program(body), { timeoutMs: 700 });
  assert.equal((await quiet('watch(fd, () => {});')).signal, 'SIGKILL');
  assert.equal((await quiet('watch(fd, () => {}, { keepAlive: false }).ref();')).signal, 'SIGKILL');
  for (const body of ['watch(fd, () => {}).unref();', 'watch(fd, () => {}, { keepAlive: false });']) {
    const ran = await run(process.execPath, program(body), { timeoutMs: 20_000 });
    assert.deepEqual([ran.code, ran.signal, ran.stderr], [0, null, '']);
  }
});

const THROWS = `
  import { execFileSync } from 'node:child_process';
  import { watch } from 'pagefault/kernel';
  import { mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
  const folder = mkdtempSync('/tmp/pagefault-watch-');
  execFileSync('mkfifo', [folder + '/fifo']);
  const fd = openSync(folder + '/fifo', 'r+');
  rmSync(folder, { recursive: true });
  let calls = 0;
  const byte = Buffer.alloc(1);
  watch(fd, () => { readSync(fd, byte); calls++; if (calls === 3) process.exit(0); throw new Error('call ' + calls); });
  writeSync(fd, 'xxx');
`;

test(
  'an exception of the callback is an uncaught one, and the watch goes on where that is handled',
  TIMEOUT,
  async () => {
    const args = ['--input-type=module', '-e'];
    const fatal = await run(process.execPath, [...args, THROWS], { timeoutMs: 20_000 });
    assert.equal(fatal.code, 1);
    assert.match(fatal.stderr, /Error: call 1\n/);
    const handler = "process.on('uncaughtException', (error) => console.log(error.message));";
    const handled = await run(process.execPath, [...args, THROWS + handler], { timeoutMs: 20_000 });
    assert.deepEqual([handled.code, handled.stdout, handled.stderr], [0, 'call 1\ncall 2\n', '']);
  },
);

test('busy polling takes what comes, and leaves the loop its turns', TIMEOUT, async () => {
  const [near, far] = UnixSocket.pair();
  let calls = 0;
  let ticks = 0;
  const ticking = setInterval(() => {
    ticks += 1;
  }, 1);
  // Always readable: nothing is read.
  const watching = near.onReadable(
    () => {
      calls += 1;
    },
    { busyPollUs: 1000 },
  );
  far.send(new Uint8Array(1));
  await until(() => calls > 100 && ticks > 30);
  watching.close();
  const before = calls;
  await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(calls, before);
  clearInterval(ticking);
  near.close();
  far.close();
});

test('two that look for long on one thread both get their messages at once', TIMEOUT, async () => {
  const pairs = [UnixSocket.pair(), UnixSocket.pair()] as const;
  const seen = [0, 0];
  for (const [i, [near]] of pairs.entries()) {
    near.onReadable(
      () => {
        near.fill();
        seen[i] = (seen[i] ?? 0) + (near.read(near.available)?.byteLength ?? 0);
      },
      { busyPollUs: 1000 },
    );
  }
  for (let round = 0; round < 200; round++) {
    for (const [, far] of pairs) far.send(new Uint8Array(1));
    await new Promise((resolve) => setImmediate(resolve));
  }
  await until(() => seen.every((count) => count >= 200));
  assert.deepEqual(seen, [200, 200]);
  for (const [near, far] of pairs) {
    near.close();
    far.close();
  }
});

test('busyPollUs is a whole number up to 1000', () => {
  const [near, far] = UnixSocket.pair();
  for (const busyPollUs of [-1, 1.5, 1001, Number.NaN, '5' as unknown as number]) {
    assert.throws(() => near.onReadable(() => {}, { busyPollUs }), { message: /busyPollUs/, name: 'RangeError' });
  }
  near.close();
  far.close();
});
