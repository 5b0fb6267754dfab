/** SignalFd: no thread takes the signal away, children are told apart, and everything is as before when it is closed. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { SignalFd } from 'pagefault/kernel';
import { openFds } from '../helpers/descriptors.js';
import { type Ran, runNode } from '../helpers/run.js';

const TIMEOUT = { timeout: 90_000 };

const PRELUDE = `
  import assert from 'node:assert/strict';
  import { spawn } from 'node:child_process';
  import { once } from 'node:events';
  import { readdirSync, readFileSync } from 'node:fs';
  import { Worker } from 'node:worker_threads';
  import { setTimeout as sleep } from 'node:timers/promises';
  import { PidFd, SignalFd } from 'pagefault/kernel';
  const until = async (condition) => { while (!condition()) await sleep(2); };
  const masks = () => Object.fromEntries(readdirSync('/proc/self/task').map((task) => [task,
    /SigBlk:\\s*(\\w+)/.exec(readFileSync('/proc/self/task/' + task + '/status', 'latin1'))[1]]));
  const blocks = (mask, signal) => (BigInt('0x' + mask) >> BigInt(signal - 1) & 1n) === 1n;
  const workers = async (count, code) => {
    const all = Array.from({ length: count }, () => new Worker(code, { eval: true, execArgv: [] }));
    await Promise.all(all.map((worker) => once(worker, 'online')));
    return all;
  };
`;

function runScript(body: string, onLine?: (pid: number) => Promise<void>): Promise<Ran> {
  return runNode('--input-type=module', ['-e', PRELUDE + body], {
    timeoutMs: 45_000,
    onSpawn: (child) => {
      const { pid, stdout } = child;
      if (pid !== undefined && stdout !== null && onLine !== undefined) {
        void once(stdout, 'data').then(() => onLine(pid));
      }
    },
  });
}

const ended = ({ code, signal, stderr }: Ran): unknown[] => [code, signal, stderr];

test('a thousand signals from another process are read with their sender, and kill nobody', TIMEOUT, async () => {
  const ran = await runScript(
    `
    const busy = 'let n = 0; for (;;) n++;', breeding = \`
      const { Worker } = require('node:worker_threads');
      const again = () => new Worker('1', { eval: true, execArgv: [] }).on('exit', again); again();\`;
    const all = [...await workers(2, busy), ...await workers(1, breeding)];
    const signals = SignalFd.open(['SIGUSR2', 'SIGHUP']);
    const seen = [];
    signals.onReadable(() => seen.push(...signals.read()));
    console.log('ready');
    await until(() => seen.some(({ signal }) => signal === 'SIGHUP'));
    const usr2 = seen.filter(({ signal }) => signal === 'SIGUSR2');
    assert.ok(usr2.length > 20, String(usr2.length));
    for (const { pid, uid, code } of seen) assert.deepEqual([pid, uid, code], [process.ppid, process.getuid(), 0]);
    process.exit(0);`,
    async (pid) => {
      for (let i = 0; i < 1000; i++) {
        process.kill(pid, 'SIGUSR2');
        if (i % 4 === 0) await new Promise((resolve) => setTimeout(resolve, 1));
      }
      process.kill(pid, 'SIGHUP');
    },
  );
  assert.deepEqual(ended(ran), [0, null, '']);
});

test(
  'every thread blocks the signal while it is open, new ones too, and none does when it is closed',
  TIMEOUT,
  async () => {
    const ran = await runScript(`
    const all = await workers(2, 'setInterval(() => {}, 1000)');
    const before = masks();
    assert.ok(Object.keys(before).length >= 9);
    for (let round = 0; round < 20; round++) {
      const signals = SignalFd.open(['SIGUSR2', 'SIGINT']);
      if (round === 0) all.push(...await workers(1, 'setInterval(() => {}, 1000)'));
      for (const mask of Object.values(masks())) assert.ok(blocks(mask, 12) && blocks(mask, 2), mask);
      signals.close();
      for (const [task, mask] of Object.entries(masks())) assert.equal(mask, before[task] ?? '0000000000000000');
    }
    process.exit(0);`);
    assert.deepEqual(ended(ran), [0, null, '']);
  },
);

test(
  'after it is closed a signal has its default action again, and one that was not read has none',
  TIMEOUT,
  async () => {
    const ran = await runScript(`
    const signals = SignalFd.open(['SIGUSR2']);
    process.kill(process.pid, 'SIGUSR2');
    signals.close();
    console.log('closed');
    process.kill(process.pid, 'SIGUSR2');
    setInterval(() => {}, 1000);`);
    assert.deepEqual([ran.code, ran.signal, ran.stdout], [null, 'SIGUSR2', 'closed\n']);
  },
);

test('listeners of process.on get the signal again after it is closed, and not before', TIMEOUT, async () => {
  const ran = await runScript(`
    let heard = 0;
    process.on('SIGTERM', () => heard++);
    const signals = SignalFd.open(['SIGTERM']);
    process.kill(process.pid, 'SIGTERM');
    await sleep(30);
    assert.equal(heard, 0);
    assert.deepEqual(signals.read().map(({ signal, pid }) => [signal, pid]), [['SIGTERM', process.pid]]);
    assert.deepEqual(signals.read(), []);
    signals.close();
    process.kill(process.pid, 'SIGTERM');
    await until(() => heard === 1);
    process.exit(0);`);
  assert.deepEqual(ended(ran), [0, null, '']);
});

test(
  'the ways in which children end, stop and go on are told apart, and child_process learns of them at the end',
  TIMEOUT,
  async () => {
    const ran = await runScript(`
    const signals = SignalFd.open(['SIGCHLD'], { takeChildSignals: true });
    const seen = [];
    const next = async (child, state) => {
      await until(() => (seen.push(...signals.read()), seen.length > 0));
      const [info] = seen.splice(0);
      assert.equal(info.signal, 'SIGCHLD');
      assert.equal(info.pid, child.pid);
      assert.equal(info.childStatus.state, state);
      return info;
    };
    const one = spawn('sh', ['-c', 'exit 5'], { stdio: 'ignore' });
    const two = spawn('sleep', ['60'], { stdio: 'ignore' });
    assert.deepEqual((await next(one, 'exited')).childStatus, { state: 'exited', code: 5 });
    two.kill('SIGSTOP');
    assert.equal((await next(two, 'stopped')).childStatus.signal, 'SIGSTOP');
    two.kill('SIGCONT');
    await next(two, 'continued');
    two.kill('SIGKILL');
    const { childStatus, code, status } = await next(two, 'killed');
    assert.deepEqual([childStatus.signal, childStatus.coreDumped, code, status], ['SIGKILL', false, 2, 9]);
    await sleep(20);
    assert.deepEqual([one.exitCode, two.signalCode], [null, null]);
    signals.close();
    await until(() => one.exitCode === 5 && two.signalCode === 'SIGKILL');
    const three = spawn('sh', ['-c', 'exit 6'], { stdio: 'ignore' });
    const [exit] = await once(three, 'exit');
    assert.equal(exit, 6);
    process.exit(0);`);
    assert.deepEqual(ended(ran), [0, null, '']);
  },
);

test('a child process does not inherit what is blocked', TIMEOUT, async () => {
  const ran = await runScript(`
    const signals = SignalFd.open(['SIGUSR2']);
    const child = spawn('sh', ['-c', 'kill -USR2 $$; exit 3'], { stdio: 'ignore' });
    assert.deepEqual(await once(child, 'exit'), [null, 'SIGUSR2']);
    signals.close();`);
  assert.deepEqual(ended(ran), [0, null, '']);
});

test('a Worker may open one, and read it on its own loop', TIMEOUT, async () => {
  const ran = await runScript(`
    const worker = new Worker(\`
      import('pagefault/kernel').then(({ SignalFd }) => {
        const signals = SignalFd.open(['SIGUSR2']);
        signals.onReadable(() => { require('node:worker_threads').parentPort.postMessage(signals.read()); signals.close(); });
        require('node:worker_threads').parentPort.postMessage('ready');
      });\`, { eval: true, execArgv: [] });
    await once(worker, 'message');
    process.kill(process.pid, 'SIGUSR2');
    const [[{ signal }]] = await once(worker, 'message');
    assert.equal(signal, 'SIGUSR2');`);
  assert.deepEqual(ended(ran), [0, null, '']);
});

test('signals that Node or the kernel needs, and one that is taken, are refused in a sentence', TIMEOUT, () => {
  const before = openFds();
  const open = (...signals: unknown[]) => SignalFd.open(signals as NodeJS.Signals[]);
  for (const signal of 'SIGKILL SIGSTOP SIGSEGV SIGBUS SIGFPE SIGILL SIGTRAP SIGPROF SIGUSR1'.split(' ')) {
    assert.throws(() => open('SIGUSR2', signal), {
      name: 'RangeError',
      message: new RegExp(`${signal} cannot be taken`),
    });
  }
  assert.throws(() => open('SIGCHLD'), { name: 'RangeError', message: /takeChildSignals: true/ });
  assert.throws(() => open('SIGNONE'), { name: 'TypeError', message: /no signal 'SIGNONE'/ });
  assert.throws(() => open(), TypeError);
  assert.throws(() => SignalFd.open('SIGUSR2' as unknown as NodeJS.Signals[]), TypeError);
  assert.throws(() => open(0), RangeError);
  assert.throws(() => open(33), RangeError);
  assert.throws(() => SignalFd.open(['SIGUSR2'], { take: true } as object), { code: 'ERR_PAGEFAULT_UNKNOWN_OPTION' });
  const signals = open('SIGUSR2');
  assert.throws(() => open('SIGHUP', 'SIGUSR2'), {
    name: 'SystemError',
    message: /another SignalFd .* has one of them/,
  });
  const other = open('SIGHUP');
  signals.close();
  signals.close();
  assert.throws(() => signals.read(), { code: 'ERR_PAGEFAULT_CLOSED', message: 'this SignalFd is closed' });
  assert.throws(() => signals.fd, { code: 'ERR_PAGEFAULT_CLOSED' });
  other.close();
  assert.equal(openFds(), before);
});
