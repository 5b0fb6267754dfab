/** The store `uds`: a segment whose pages come over a Unix socket, from servers that behave and from those that do not. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { map, PageError, type Segment } from 'pagefault';
import { servePages } from 'pagefault/guests';
import { file, type UdsOptions, uds } from 'pagefault/stores';
import { patternByte } from '../fixtures/pattern.js';
import type { Reading } from '../fixtures/uds-reader.js';
import { openFds, until } from '../helpers/descriptors.js';
import { type Asked, answerTo, HandServer, head } from '../helpers/page-server.js';
import { run, runNode } from '../helpers/run.js';
import { firstDifference, onEachBackend, patternFile, temporaryPath } from '../helpers/stores.js';

const BASE = 0x8000_0000n;
const LENGTH = 64 * 4096;

/** All of a segment, loaded and compared with the pattern. */
async function checkAll(segment: Segment): Promise<void> {
  await segment.load();
  assert.equal(
    firstDifference(segment.view(Uint8Array), 0, (offset) => patternByte(offset)),
    -1,
  );
}

async function write(socket: Socket, bytes: Uint8Array): Promise<void> {
  if (!socket.destroyed) await new Promise((written) => socket.write(bytes, written));
}

/** A segment over a server in the test's hand. */
async function withHand(
  answer: (asked: Asked, socket: Socket) => void | Promise<void>,
  options: Parameters<typeof map>[1],
  body: (segment: Segment, server: HandServer, path: string) => Promise<void>,
): Promise<void> {
  const path = temporaryPath();
  const server = await HandServer.listen(path, answer);
  try {
    const segment = await map(uds(path, { base: BASE, byteLength: LENGTH }), { readahead: 0, ...options });
    try {
      await body(segment, server, path);
    } finally {
      await segment.close();
    }
  } finally {
    await server.close();
  }
}

test('uds() makes its path absolute at once, and is frozen plain data', () => {
  const ref = uds('pages.sock', { base: BASE, pageSize: '16KiB', byteLength: '1MiB' });
  assert.deepEqual(ref, {
    kind: 'uds',
    path: resolve('pages.sock'),
    base: BASE,
    pageSize: 16_384,
    byteLength: 2 ** 20,
  });
  assert.ok(Object.isFrozen(ref));
  assert.deepEqual(structuredClone(ref), ref);
  assert.deepEqual(uds('/x'), { kind: 'uds', path: '/x', base: 0n, pageSize: 4096, byteLength: undefined });
});

test('uds() refuses what is no path and what is no option in a sentence', () => {
  const bad = (options: UdsOptions) => () => uds('/x', options);
  assert.throws(() => uds(3 as never), { name: 'TypeError', message: /path must be a string, not 3/ });
  assert.throws(() => uds(''), { name: 'TypeError', message: /must not be empty/ });
  assert.throws(() => uds('a\0b'), { name: 'TypeError', message: /null byte/ });
  assert.throws(() => uds(`/${'x'.repeat(107)}`), {
    name: 'RangeError',
    message: /at most 107 bytes, and this one has 108/,
  });
  assert.throws(bad({ bas: 0n } as never), { name: 'TypeError', message: /did you mean 'base'\?/ });
  assert.throws(bad({ base: 0 as never }), { name: 'TypeError', message: /base must be a bigint/ });
  assert.throws(bad({ base: -1n }), { name: 'RangeError', message: /from 0n to 2\^64 - 1/ });
  assert.throws(bad({ base: 4096n, pageSize: 8192 }), {
    name: 'RangeError',
    message: /multiple of pageSize, 8192 bytes/,
  });
  assert.throws(bad({ pageSize: 1000 }), { name: 'RangeError', message: /pageSize must be a power of two from 4096/ });
  assert.throws(bad({ pageSize: '4MiB' }), { name: 'RangeError', message: /pageSize must be a power of two/ });
  assert.throws(bad({ byteLength: 0 }), { name: 'RangeError', message: /byteLength must be at least 1/ });
  assert.throws(bad({ base: (1n << 64n) - 4096n, byteLength: 8192 }), { name: 'RangeError', message: /beyond 2\^64/ });
});

for (const [wire, pageSize] of [
  [4096, 4096],
  [16_384, undefined],
  [4096, 65_536],
  [16_384, 4096],
  [2 ** 21, undefined],
] as const) {
  onEachBackend(`pages of ${wire} bytes in a segment of ${pageSize ?? 'the same'}`, async (backend) => {
    const byteLength = 2 * Math.max(wire, pageSize ?? 0) + 5001; // the end lies within a page
    const path = temporaryPath();
    const server = await servePages(path, file(patternFile(byteLength)), { base: BASE });
    try {
      const store = uds(path, { base: BASE, pageSize: wire, byteLength });
      const segment = await map(store, { backend, ...(pageSize === undefined ? {} : { pageSize }) });
      assert.equal(segment.pageSize, pageSize ?? wire);
      assert.equal(segment.byteLength, byteLength);
      await checkAll(segment);
      await segment.close();
      await until(() => server.stats().clients === 0);
      assert.equal(server.stats().refused, 0);
    } finally {
      await server.close();
    }
  });
}

test('a touch stops the thread until the server, another process, has answered', async () => {
  const path = temporaryPath();
  const memory = patternFile(LENGTH);
  const script = `
    import { map } from 'pagefault';
    import { uds } from 'pagefault/stores';
    const segment = await map(uds(${JSON.stringify(path)}, { base: 0x8000_0000n, byteLength: ${LENGTH} }));
    let sum = 0;
    for (const byte of segment.view(Uint8Array)) sum += byte;
    console.log(sum);
    await segment.close();
  `;
  const server = await servePages(path, file(memory), { base: BASE });
  try {
    const { code, stdout, stderr } = await runNode('--input-type=module', ['-e', script], { timeoutMs: 60_000 });
    let sum = 0;
    for (let offset = 0; offset < LENGTH; offset++) sum += patternByte(offset);
    assert.deepEqual([code, stdout], [0, `${sum}\n`], stderr);
  } finally {
    await server.close();
  }
});

test('without byteLength the segment says how long it is, and without either it is told', async () => {
  const path = temporaryPath();
  const server = await servePages(path, file(patternFile(LENGTH)), { base: BASE });
  try {
    await assert.rejects(map(uds(path, { base: BASE })), {
      name: 'TypeError',
      message: /does not tell how many bytes it has/,
    });
    const segment = await map(uds(path, { base: BASE }), { offset: 8192, byteLength: 12_288 });
    await segment.load();
    assert.equal(
      firstDifference(segment.view(Uint8Array), 8192, (offset) => patternByte(offset)),
      -1,
    );
    await segment.close();
    await assert.rejects(map(uds(path, { base: (1n << 64n) - 4096n }), { byteLength: 8192 }), {
      name: 'RangeError',
      message: /beyond 2\^64/,
    });
  } finally {
    await server.close();
  }
});

test('it cannot be written, and a path that leads nowhere is told when it is mapped', async () => {
  const path = temporaryPath();
  await assert.rejects(map(uds(path, { byteLength: 4096 }), { writable: true }), {
    code: 'ERR_PAGEFAULT_STORE_READ_ONLY',
    message: /is a page server, which takes no writes/,
  });
  await assert.rejects(map(uds(path, { byteLength: 4096 })), {
    name: 'StoreError',
    code: 'ERR_PAGEFAULT_STORE_OPEN',
    message: `uds(${path}) cannot be opened: the page server at '${path}' cannot be reached: there is no such file (ENOENT)`,
  });
  await assert.rejects(map(uds(patternFile(10), { byteLength: 4096 })), { message: /nobody listens there/ });
});

test('concurrent faults share one socket, each request whole, and answers find their pages', async () => {
  await withHand(
    (asked, socket) => void socket.write(answerTo(asked, BASE)),
    {},
    async (segment, server) => {
      await Promise.all(Array.from({ length: 64 }, (_, i) => segment.load(((i * 29) % 64) * 4096, 4096)));
      await checkAll(segment);
      assert.equal(server.connections, 1);
      assert.equal(server.asked.length, 64, 'each page was asked for once');
      assert.deepEqual(
        server.asked.map(({ address }) => Number(address - BASE) / 4096).sort((a, b) => a - b),
        Array.from({ length: 64 }, (_, i) => i),
      );
      assert.ok(server.asked.every(({ pageSize }) => pageSize === 4096n));
    },
  );
});

test('threads that fault at the same time share the socket, too', async () => {
  await withHand(
    (asked, socket) => void socket.write(answerTo(asked, BASE)),
    { shared: true },
    async (segment, server) => {
      const wrong = [0, 1, 2, 3].map(async (first) => {
        const workerData: Reading = { handle: segment.handle, first, step: 4 };
        const worker = new Worker(new URL('../fixtures/uds-reader.js', import.meta.url), { workerData });
        const ended = once(worker, 'exit');
        const [count] = (await once(worker, 'message')) as [number];
        await ended;
        return count;
      });
      assert.deepEqual(await Promise.all(wrong), [0, 0, 0, 0]);
      assert.equal(server.connections, 1);
      assert.equal(server.asked.length, 64, 'each page was asked for once');
    },
  );
});

test('answers that are dribbled in pieces of any size come out whole', async () => {
  const sizes = [1, 15, 1, 16, 17, 3, 1000, 4095, 7];
  let next = 0;
  await withHand(
    async (asked, socket) => {
      const bytes = answerTo(asked, BASE);
      for (let at = 0; at < bytes.length; ) {
        const size = sizes[next++ % sizes.length] ?? 1;
        await write(socket, bytes.subarray(at, at + size));
        if (size < 16) await nextTurn();
        at += size;
      }
    },
    {},
    checkAll,
  );
});

test('a connection that is cut at any byte of an answer is made again, and no page is half or zero', async () => {
  const cuts = [0, 1, 15, 16, 17, 100, 4096, 4111];
  let answers = 0;
  await withHand(
    async (asked, socket) => {
      if (socket.destroyed) return;
      answers += 1;
      const cut = answers % 3 === 0 ? cuts[(answers / 3) % cuts.length] : undefined;
      const bytes = answerTo(asked, BASE);
      await write(socket, bytes.subarray(0, cut));
      if (cut !== undefined) socket.destroy();
    },
    {},
    async (segment, server) => {
      // Few at a time: each of those that wait is tried again after a pause, which grows.
      for (let page = 0; page < 64; page += 2) await segment.load(page * 4096, 8192);
      await checkAll(segment);
      assert.ok(server.connections > cuts.length, `${server.connections} connections`);
      assert.ok(segment.stats().retries > 0);
      assert.equal(segment.stats().failures, 0);
    },
  );
});

test('a lost server parks the faults, and the next one resumes them within the deadline', async () => {
  const path = temporaryPath();
  const memory = patternFile(LENGTH);
  const start = () => servePages(path, file(memory), { base: BASE });
  let server = await start();
  const segment = await map(uds(path, { base: BASE, byteLength: LENGTH }), { readahead: 0 });
  await segment.load(0, 4096);
  await server.close();
  const parked = segment.load();
  await until(() => segment.stats().retries > 64, 20_000);
  server = await start();
  await parked;
  await checkAll(segment);
  assert.equal(segment.stats().failures, 0);
  await segment.close();
  await server.close();
});

test('a server that is killed while it answers is replaced without a lost fault', async () => {
  const path = temporaryPath();
  const memory = patternFile(LENGTH);
  const start = (act: (kill: () => void) => void): Promise<unknown> =>
    run(
      process.execPath,
      ['dist/cli/main.js', 'serve', 'pages', '--socket', path, '--memory', memory, '--base', '0x80000000'],
      {
        timeoutMs: 60_000,
        onSpawn: (child) => act(() => child.kill('SIGKILL')),
      },
    );
  let kill = (): void => {};
  const keep = (end: () => void): void => {
    kill = end;
  };
  let ran = start(keep);
  const open = (): Promise<Segment> =>
    map(uds(path, { base: BASE, byteLength: LENGTH }), { readahead: 0, resident: '64KiB' }).catch(() =>
      nextTurn().then(open),
    );
  const segment = await open();
  let kills = 0;
  let done = false;
  const reading = (async () => {
    for (let page = 0; page < 640; page++) {
      await segment.load((page % 64) * 4096, 4096);
      const bytes = segment.read((page % 64) * 4096, 4096);
      assert.equal(
        firstDifference(bytes, (page % 64) * 4096, (offset) => patternByte(offset)),
        -1,
      );
    }
    done = true;
  })();
  reading.catch(() => {}); // told below
  while (!done && kills < 3) {
    const before = segment.stats().storeReads;
    await Promise.race([reading, until(() => segment.stats().storeReads > before + 50, 20_000)]);
    kill();
    kills += 1;
    await ran;
    ran = start(keep);
  }
  await reading;
  assert.ok(kills >= 2, `${kills} kills`);
  assert.equal(segment.stats().failures, 0);
  await segment.close();
  kill();
  await ran;
});

test('a server that stays lost fails the page at the deadline with its reason, and a later load heals it', async () => {
  const path = temporaryPath();
  const hand = await HandServer.listen(path, (asked, socket) => void socket.write(answerTo(asked, BASE)));
  const segment = await map(uds(path, { base: BASE, byteLength: LENGTH }), { readahead: 0, faultTimeoutMs: 2000 });
  await hand.close();
  await assert.rejects(segment.load(0, 4096), (error: unknown) => {
    assert.ok(error instanceof PageError);
    // Which one depends on whether the last try has ended when the deadline is over.
    assert.ok(['ERR_PAGEFAULT_STORE', 'ERR_PAGEFAULT_TIMEOUT'].includes(error.code), error.code);
    assert.match(error.message, /the page server at .+ cannot be reached: there is no such file/);
    assert.equal((error.cause as { code?: string }).code, 'ERR_PAGEFAULT_IO');
    return true;
  });
  const again = await HandServer.listen(path, (asked, socket) => void socket.write(answerTo(asked, BASE)));
  await checkAll(segment);
  await segment.close();
  await again.close();
});

test('pages that the server does not have fail at the deadline, and the others come though their connection is closed', async () => {
  const path = temporaryPath();
  const server = await servePages(path, file(patternFile(16 * 4096)), { base: BASE });
  const store = uds(path, { base: BASE, byteLength: 18 * 4096 });
  const segment = await map(store, { readahead: 0, faultTimeoutMs: 5000 });
  const behind = [16, 17].map((page) => segment.load(page * 4096, 4096).catch((error: unknown) => error));
  for (let page = 0; page < 16; page++) await segment.load(page * 4096, 4096);
  assert.equal(
    firstDifference(segment.read(0, 16 * 4096), 0, (offset) => patternByte(offset)),
    -1,
  );
  for (const error of await Promise.all(behind)) {
    assert.ok(error instanceof PageError, String(error));
    assert.match(error.message, /the page server at .+ has closed the connection/);
  }
  await segment.close();
  await server.close();
});

test('a server that says nothing is a timeout', async () => {
  await withHand(
    () => {},
    { faultTimeoutMs: 200 },
    async (segment) => {
      await assert.rejects(segment.load(0, 4096), {
        code: 'ERR_PAGEFAULT_TIMEOUT',
        message: /the store did not answer within (\d+ ms|faultTimeoutMs)/,
      });
    },
  );
});

const LIES: [what: string, head: (asked: Asked) => Buffer][] = [
  ['another address', ({ address, pageSize }) => head(address + 4096n, pageSize)],
  ['another page size', ({ address }) => head(address, 8192n)],
  ['a page size of 2^64 - 1', ({ address }) => head(address, (1n << 64n) - 1n)],
  ['noise', () => Buffer.from('HTTP/1.1 400 Bad')],
];

for (const [what, lie] of LIES) {
  test(`an answer with ${what} fails its page with both heads at once, and no other page`, async () => {
    const bad = BASE + 5n * 4096n;
    await withHand(
      (asked, socket) => void socket.write(asked.address === bad ? lie(asked) : answerTo(asked, BASE)),
      {},
      async (segment) => {
        const begun = performance.now();
        const failed = segment.load(5 * 4096, 4096).catch((error: unknown) => error);
        await Promise.all(
          Array.from({ length: 64 }, (_, page) => (page === 5 ? failed : segment.load(page * 4096, 4096))),
        );
        const error = await failed;
        assert.ok(error instanceof PageError, String(error));
        assert.ok(performance.now() - begun < 15_000, 'it was not tried again until the deadline');
        assert.equal(error.code, 'ERR_PAGEFAULT_STORE');
        assert.equal((error.cause as { code?: string }).code, 'ERR_PAGEFAULT_PROTOCOL');
        assert.match(
          error.message,
          /address 0x80005000, 4096 bytes was expected, address 0x[\da-f]+, \d+ bytes was received/,
        );
        for (let page = 0; page < 64; page++) {
          if (page === 5) continue;
          const bytes = segment.read(page * 4096, 4096);
          assert.equal(
            firstDifference(bytes, page * 4096, (offset) => patternByte(offset)),
            -1,
          );
        }
      },
    );
  });
}

test('bytes that nobody asked for cost the connection, and nothing else', async () => {
  await withHand(
    async (asked, socket) => {
      await write(socket, answerTo(asked, BASE));
      if (asked.address % 0x4000n === 0n) await write(socket, Buffer.alloc(100));
    },
    {},
    async (segment) => {
      for (let page = 0; page < 64; page++)
        await segment.load(page * 4096, 4096).catch(() => segment.load(page * 4096, 4096));
      await checkAll(segment);
    },
  );
});

test('closing the segment closes the connection, also while it waits', async () => {
  const before = openFds();
  const path = temporaryPath();
  const server = await HandServer.listen(path, () => {});
  const segment = await map(uds(path, { base: BASE, byteLength: LENGTH }));
  const waiting = segment.load(0, 4096).catch((error: unknown) => error);
  await until(() => server.asked.length > 0);
  await segment.close();
  assert.ok((await waiting) instanceof Error);
  await until(() => server.sockets.size === 0);
  await server.close();
  await until(() => openFds() <= before);
});
