/** `servePages`: the bytes of the protocol, many clients and hostile ones, stores that fail, and the path of the socket. */

import assert from 'node:assert/strict';
import type { ChildProcess } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { map } from 'pagefault';
import { type PageServer, type ServePagesOptions, servePages } from 'pagefault/guests';
import { UnixListener } from 'pagefault/kernel';
import { custom, file, memory, type PageStore, uds, zero } from 'pagefault/stores';
import { fillPattern } from '../fixtures/pattern.js';
import { openFds, until } from '../helpers/descriptors.js';
import { answerTo, HandClient, HandServer, head } from '../helpers/page-server.js';
import { run, runNode } from '../helpers/run.js';
import { patternBytes, patternFile, patternModule, temporaryPath } from '../helpers/stores.js';

const BASE = 0x8000_0000n;
const PAGES = 64;
const LENGTH = PAGES * 4096;

type Served = Parameters<typeof servePages>[1];

/** A server for the time of `body`; afterwards nothing of it is left. */
async function withServer(
  store: Served,
  options: ServePagesOptions,
  body: (path: string, server: PageServer) => Promise<void>,
): Promise<void> {
  const before = openFds();
  const path = temporaryPath();
  const server = await servePages(path, store, { base: BASE, ...options });
  try {
    await body(path, server);
  } finally {
    await server.close();
  }
  assert.equal(existsSync(path), false);
  await until(() => openFds() <= before);
}

async function withClient(path: string, body: (client: HandClient) => Promise<void>): Promise<void> {
  const client = await HandClient.connect(path);
  try {
    await body(client);
  } finally {
    client.close();
  }
}

/** The answer to a request, as the protocol has it. */
function right(page: number, pageSize = 4096): Buffer {
  return answerTo({ address: BASE + BigInt(page) * BigInt(pageSize), pageSize: BigInt(pageSize) }, BASE);
}

function request(page: number, pageSize = 4096): Buffer {
  return head(BASE + BigInt(page) * BigInt(pageSize), pageSize);
}

for (const pageSize of [4096, 16_384, 2 ** 21]) {
  test(`an answer repeats the address and the page size and then has the page (${pageSize} bytes)`, async () => {
    await withServer(file(patternFile(2 * pageSize)), {}, async (path, server) => {
      await withClient(path, async (client) => {
        client.send(request(1, pageSize));
        assert.deepEqual(await client.take(16 + pageSize), right(1, pageSize));
        client.send(request(0, pageSize));
        assert.deepEqual(await client.take(16 + pageSize), right(0, pageSize));
      });
      const { pages, bytes, connections, refused, failures } = server.stats();
      assert.deepEqual([pages, bytes, connections, refused, failures], [2, 2 * pageSize, 1, 0, 0]);
      assert.deepEqual([server.stats().forwardedSignals, server.stats().handlerReinstalls], [0, 0]);
    });
  });
}

test('the numbers are little-endian and 64 bits wide', async () => {
  const base = 0x1122_3344_5566_7000n;
  await withServer(memory(patternBytes(8192)), { base }, async (path) => {
    await withClient(path, async (client) => {
      const bytes = [0x00, 0x80, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0x00, 0x10, 0, 0, 0, 0, 0, 0];
      client.send(Uint8Array.from(bytes));
      const answer = await client.take(16 + 4096);
      assert.deepEqual([...answer.subarray(0, 16)], bytes);
      assert.deepEqual(answer.subarray(16), Buffer.from(patternBytes(8192).subarray(4096)));
    });
  });
});

test('requests that come in one piece are answered in their order', async () => {
  const order = Array.from({ length: 1000 }, (_, i) => (i * 37) % PAGES);
  await withServer(file(patternFile(LENGTH)), {}, async (path, server) => {
    await withClient(path, async (client) => {
      client.send(...order.map((page) => request(page)));
      for (const page of order) assert.deepEqual(await client.take(16 + 4096), right(page));
      client.send(request(3), request(0, 16_384), request(4));
      const expected = Buffer.concat([right(3), right(0, 16_384), right(4)]);
      assert.deepEqual(await client.take(expected.length), expected);
    });
    assert.equal(server.stats().pages, 1003);
  });
});

test('requests that are dribbled byte by byte, and cut anywhere, are answered all the same', async () => {
  const order = [5, 0, 63, 17];
  await withServer(memory(patternBytes(LENGTH)), {}, async (path) => {
    await withClient(path, async (client) => {
      client.socket.setNoDelay();
      for (const byte of Buffer.concat(order.map((page) => request(page)))) {
        client.send(Uint8Array.of(byte));
        await new Promise((resolve) => setImmediate(resolve));
      }
      for (const page of order) assert.deepEqual(await client.take(16 + 4096), right(page));
      const all = Buffer.concat(order.map((page) => request(page)));
      for (let cut = 1; cut < all.length; cut += 7) {
        client.send(all.subarray(0, cut));
        await new Promise((resolve) => setImmediate(resolve));
        client.send(all.subarray(cut));
        for (const page of order) assert.deepEqual(await client.take(16 + 4096), right(page));
      }
    });
  });
});

test('a client that has sent its last request still gets all its answers', async () => {
  await withServer(file(patternFile(LENGTH)), {}, async (path) => {
    await withClient(path, async (client) => {
      client.send(request(1), request(2), request(3));
      client.socket.end();
      assert.deepEqual(await client.rest(), Buffer.concat([right(1), right(2), right(3)]));
    });
  });
});

test('a client that vanishes at each byte of its request, or amid its answers, harms nobody', async () => {
  await withServer(file(patternFile(LENGTH)), {}, async (path, server) => {
    const other = await HandClient.connect(path);
    for (let bytes = 0; bytes <= 16; bytes++) {
      const client = await HandClient.connect(path);
      client.send(request(1).subarray(0, bytes));
      client.close();
    }
    const greedy = await HandClient.connect(path);
    greedy.send(...Array.from({ length: 500 }, (_, i) => request(i % PAGES)));
    await greedy.take(5000);
    greedy.close();
    other.send(request(7));
    assert.deepEqual(await other.take(16 + 4096), right(7));
    await until(() => server.stats().clients === 1);
    other.close();
    assert.equal(server.stats().refused, 0);
  });
});

const HOSTILE: [what: string, address: bigint, pageSize: bigint, sentence: RegExp][] = [
  ['no bytes', BASE, 0n, /power of two/],
  ['no power of two', BASE, 4097n, /power of two/],
  ['less than a page', BASE, 512n, /a page has 4096 bytes or more/],
  ['more than the largest page', BASE, 4_194_304n, /2097152 at most/],
  ['2^63 bytes', BASE, 1n << 63n, /2097152 at most/],
  ['2^64 - 1 bytes', BASE, (1n << 64n) - 1n, /2097152 at most/],
  ['an unaligned address', BASE + 1n, 4096n, /not a multiple of the page size/],
  ['a small page of a large one', BASE + 4096n, 16_384n, /not a multiple/],
  ['below the base', BASE - 4096n, 4096n, /the store begins at 0x80000000/],
  ['address 0', 0n, 4096n, /the store begins at/],
  ['behind the end', BASE + BigInt(LENGTH), 4096n, /the store ends at 0x80040000/],
  ['the last address', (1n << 64n) - 4096n, 4096n, /the store ends at/],
];

test('hostile lengths and addresses are refused: what was asked before is answered, then the connection is closed', async () => {
  await withServer(memory(patternBytes(LENGTH)), {}, async (path, server) => {
    const other = await HandClient.connect(path);
    for (const [i, [what, address, pageSize, sentence]] of HOSTILE.entries()) {
      const told = new Promise<string>((resolve) => server.once('refused', (_, why) => resolve(why)));
      await withClient(path, async (client) => {
        client.send(request(2), request(1), head(address, pageSize), request(0));
        assert.deepEqual(await client.rest(), Buffer.concat([right(2), right(1)]), what);
      });
      const why = await told;
      assert.match(why, sentence);
      assert.ok(why.startsWith(`address 0x${address.toString(16)}, ${pageSize} bytes: `), why);
      other.send(request(9));
      assert.deepEqual(await other.take(16 + 4096), right(9), `the other client after ${what}`);
      assert.equal(server.stats().refused, i + 1);
    }
    other.close();
  });
});

test('maxPageSize bounds what is answered', async () => {
  await withServer(memory(patternBytes(LENGTH)), { maxPageSize: '16KiB' }, async (path) => {
    await withClient(path, async (client) => {
      client.send(request(0, 16_384), request(0, 32_768));
      assert.deepEqual(await client.rest(), right(0, 16_384));
    });
  });
});

test('the end of the store within a page reads zero, and so do the holes of a file', async () => {
  const path = patternFile(5000);
  await withServer(file(path), {}, async (socket) => {
    await withClient(socket, async (client) => {
      client.send(request(1), request(0, 16_384));
      const page = (await client.take(16 + 4096)).subarray(16);
      assert.deepEqual(page.subarray(0, 904), right(1).subarray(16, 16 + 904));
      assert.ok(page.subarray(904).every((byte) => byte === 0));
      const large = (await client.take(16 + 16_384)).subarray(16);
      assert.deepEqual(large.subarray(0, 5000), Buffer.from(patternBytes(5000)));
      assert.ok(large.subarray(5000).every((byte) => byte === 0));
    });
  });
  truncateSync(path, 3 * 4096);
  await withServer(file(path), {}, async (socket) => {
    await withClient(socket, async (client) => {
      client.send(request(2));
      assert.ok((await client.take(16 + 4096)).subarray(16).every((byte) => byte === 0));
    });
  });
});

test('two hundred clients at once each get what they ask for', async () => {
  await withServer(file(patternFile(LENGTH)), {}, async (path, server) => {
    const clients = await Promise.all(Array.from({ length: 200 }, () => HandClient.connect(path)));
    await Promise.all(
      clients.map(async (client, i) => {
        for (let round = 0; round < 3; round++) {
          const order = [0, 1, 2, 3].map((step) => (i * 11 + round * 5 + step * 17) % PAGES);
          client.send(...order.map((page) => request(page)));
          for (const page of order) assert.deepEqual(await client.take(16 + 4096), right(page));
        }
      }),
    );
    assert.equal(server.stats().clients, 200);
    for (const client of clients) client.close();
    await until(() => server.stats().clients === 0);
    assert.equal(server.stats().pages, 2400);
  });
});

test('a client that takes no answers holds a few MiB of the server and no other client', async () => {
  await withServer(memory(patternBytes(LENGTH)), {}, async (path, server) => {
    const greedy = await HandClient.connect(path);
    greedy.socket.pause();
    const asked = 5000; // 20 MiB of answers
    greedy.send(...Array.from({ length: asked }, (_, i) => request(i % PAGES)));
    await withClient(path, async (client) => {
      for (let page = 0; page < PAGES; page++) {
        client.send(request(page));
        assert.deepEqual(await client.take(16 + 4096), right(page));
      }
    });
    assert.ok(server.stats().pages < PAGES + 2000, `${server.stats().pages} pages were made`);
    greedy.socket.resume();
    for (let i = 0; i < asked; i++) {
      const answer = await greedy.take(16 + 4096);
      if (i % 500 === 0) assert.deepEqual(answer, right(i % PAGES));
      assert.equal(answer.length, 16 + 4096);
    }
    greedy.close();
  });
});

test('clients beyond maxClients wait until one leaves', async () => {
  await withServer(memory(patternBytes(LENGTH)), { maxClients: 2 }, async (path, server) => {
    const [first, second, third] = await Promise.all([1, 2, 3].map(() => HandClient.connect(path)));
    assert.ok(first && second && third);
    for (const client of [first, second, third]) client.send(request(1));
    assert.equal((await first.take(16 + 4096)).length, 16 + 4096);
    assert.equal((await second.take(16 + 4096)).length, 16 + 4096);
    assert.deepEqual([server.stats().clients, server.stats().connections], [2, 2]);
    first.close();
    assert.deepEqual(await third.take(16 + 4096), right(1));
    second.close();
    third.close();
  });
});

test('a client waits while the server has no descriptors left, and is served when it has', async () => {
  const path = temporaryPath();
  const script = `
    import { closeSync, openSync } from 'node:fs';
    import { servePages } from 'pagefault/guests';
    import { zero } from 'pagefault/stores';
    const server = await servePages(${JSON.stringify(path)}, zero(4096));
    const fds = [];
    process.on('SIGUSR2', () => fds.forEach((fd) => closeSync(fd)));
    process.on('SIGTERM', () => server.close());
    try {
      for (;;) fds.push(openSync('/dev/null'));
    } catch (error) {
      process.stdout.write(error.code);
    }
  `;
  const act = async (child: ChildProcess): Promise<void> => {
    const told = new Promise<string>((resolve) => child.stdout?.once('data', resolve));
    assert.equal(String(await told), 'EMFILE');
    const client = await HandClient.connect(path);
    client.send(head(0n, 4096));
    await sleep(300); // three times as long as it pauses
    child.kill('SIGUSR2');
    assert.equal((await client.take(16 + 4096)).length, 16 + 4096);
    client.close();
    child.kill('SIGTERM');
  };
  let acted: Promise<void> | undefined;
  const command = 'ulimit -n 100; exec "$0" --input-type=module -e "$1"';
  const { code, stderr } = await run('sh', ['-c', command, process.execPath, script], {
    timeoutMs: 60_000,
    onSpawn: (child) => {
      acted = act(child).finally(() => child.exitCode ?? child.kill('SIGTERM'));
      acted.catch(() => {}); // told below
    },
  });
  await acted;
  assert.equal(code, 0, stderr);
});

test('a page that cannot be had closes the connection that asked for it, after what can: never zeroes', async () => {
  let broken = true;
  const store: PageStore = {
    byteLength: LENGTH,
    read(offset, into) {
      if (broken && offset === 4096) throw Object.assign(new Error('gone fishing'), { permanent: true });
      fillPattern(offset, into);
      return into.byteLength;
    },
  };
  await withServer(store, {}, async (path, server) => {
    const other = await HandClient.connect(path);
    const told = new Promise<{ error: Error; address: bigint }>((resolve) =>
      server.once('pageerror', (error, { address }) => resolve({ error, address })),
    );
    await withClient(path, async (client) => {
      client.send(request(0), request(1), request(2));
      assert.deepEqual(await client.rest(), right(0));
    });
    const { error, address } = await told;
    assert.equal(address, BASE + 4096n);
    assert.match(error.message, /gone fishing/);
    assert.equal(server.stats().failures, 1);
    other.send(request(2));
    assert.deepEqual(await other.take(16 + 4096), right(2));
    broken = false;
    other.send(request(1));
    assert.deepEqual(await other.take(16 + 4096), right(1));
    other.close();
  });
});

test('a store that fails for a while is asked again', async () => {
  let fails = 3;
  const store: PageStore = {
    byteLength: LENGTH,
    async read(offset, into) {
      if (fails-- > 0) throw new Error('not yet');
      fillPattern(offset, into);
      return into.byteLength;
    },
  };
  await withServer(store, {}, async (path, server) => {
    await withClient(path, async (client) => {
      client.send(request(5));
      assert.deepEqual(await client.take(16 + 4096), right(5));
    });
    assert.equal(server.stats().retries, 3);
  });
});

test('a segment, a store of your own and another page server can be served', async () => {
  const segment = await map(file(patternFile(LENGTH)));
  await withServer(segment, {}, async (path) => {
    await withServer(uds(path, { base: BASE, byteLength: LENGTH }), { base: 0n }, async (second) => {
      await withClient(second, async (client) => {
        client.send(head(0x3000n, 4096), head(0x4000n, 16_384));
        assert.deepEqual((await client.take(16 + 4096)).subarray(16), right(3).subarray(16));
        assert.deepEqual((await client.take(16 + 16_384)).subarray(16), right(1, 16_384).subarray(16));
      });
    });
  });
  assert.equal(segment.view(Uint8Array).length, LENGTH, 'the segment is its owner’s to close');
  await segment.close();
  await withServer(custom(patternModule, { byteLength: LENGTH }), {}, async (path) => {
    await withClient(path, async (client) => {
      client.send(request(7));
      assert.deepEqual(await client.take(16 + 4096), right(7));
    });
  });
  await withServer(zero(LENGTH), {}, async (path) => {
    await withClient(path, async (client) => {
      client.send(request(7));
      assert.ok((await client.take(16 + 4096)).subarray(16).every((byte) => byte === 0));
    });
  });
});

/* --- the path of the socket --- */

test('the socket is for its user only, unless mode says otherwise', async () => {
  await withServer(zero(4096), {}, async (path) => {
    assert.equal(statSync(path).mode & 0o777, 0o600);
  });
  await withServer(zero(4096), { mode: 0o660 }, async (path) => {
    assert.equal(statSync(path).mode & 0o777, 0o660);
  });
});

async function refusesPath(path: string, sentence: RegExp, errno = 98): Promise<void> {
  const before = openFds();
  await assert.rejects(servePages(path, file(patternFile(4096))), (error: Error & { errno?: number }) => {
    assert.match(error.message, sentence);
    assert.equal(error.name, 'SystemError');
    assert.equal(error.errno, errno);
    return true;
  });
  assert.equal(openFds(), before);
}

test('a path that is a file, a directory or a symbolic link is refused and stays as it is', async () => {
  const path = patternFile(100);
  await refusesPath(path, /^servePages\(\): cannot listen at '.+': it is a file, which is left as it is/);
  assert.deepEqual(readFileSync(path), Buffer.from(patternBytes(100)));
  const folder = temporaryPath();
  mkdirSync(folder);
  await refusesPath(folder, /it is a directory/);
  const link = temporaryPath();
  symlinkSync(path, link);
  await refusesPath(link, /it is a symbolic link/);
  assert.ok(lstatSync(link).isSymbolicLink());
  await refusesPath(join(folder, 'none', 'socket'), /its directory does not exist/, 2);
});

test('a path at which somebody listens is refused, with the process, which notices nothing', async () => {
  await withServer(memory(patternBytes(LENGTH)), {}, async (path) => {
    await refusesPath(path, new RegExp(`: process ${process.pid} listens there$`));
    await withClient(path, async (client) => {
      client.send(request(1));
      assert.deepEqual(await client.take(16 + 4096), right(1));
    });
  });
});

test('a socket that a dead process of this user left behind is replaced', async () => {
  const path = temporaryPath();
  const script = `
    import { servePages } from 'pagefault/guests';
    import { zero } from 'pagefault/stores';
    await servePages(${JSON.stringify(path)}, zero(4096));
    process.kill(process.pid, 'SIGKILL');
  `;
  const { signal } = await runNode('--input-type=module', ['-e', script], { timeoutMs: 60_000 });
  assert.equal(signal, 'SIGKILL');
  assert.ok(statSync(path).isSocket());
  const server = await servePages(path, memory(patternBytes(LENGTH)), { base: BASE });
  await withClient(path, async (client) => {
    client.send(request(1));
    assert.deepEqual(await client.take(16 + 4096), right(1));
  });
  await server.close();
});

test('a socket of another user is refused', {
  skip: process.getuid?.() === 0 ? false : 'only root can give a file away',
}, async () => {
  const path = temporaryPath();
  const listener = UnixListener.listen(path);
  chownSync(path, 12_345, 12_345);
  await refusesPath(path, /it is a socket of another user \(uid 12345, this process has 0\)/);
  assert.ok(statSync(path).isSocket());
  listener.close();
});

test('a path that is too long, and a directory that may not be written, are told', async () => {
  await assert.rejects(servePages(join(temporaryPath(), 'x'.repeat(120)), zero(4096)), {
    name: 'RangeError',
    message: /at most 107 bytes/,
  });
  if (process.getuid?.() === 0) return; // it may write everywhere
  const folder = temporaryPath();
  mkdirSync(folder);
  chmodSync(folder, 0o500);
  await refusesPath(join(folder, 'socket'), /writing to its directory is not permitted/, 13);
});

test('closing ends all connections, removes the file, and is idempotent; a signal closes, too', async () => {
  const path = temporaryPath();
  const controller = new AbortController();
  const server = await servePages(path, zero(4096), { signal: controller.signal });
  const client = await HandClient.connect(path);
  controller.abort();
  assert.equal((await client.rest()).length, 0);
  await server.close();
  await server.close();
  assert.equal(existsSync(path), false);
  client.close();
  await assert.rejects(servePages(path, zero(4096), { signal: controller.signal }), { name: 'AbortError' });
});

test('a server may be closed by whoever hears of a client, also of the first of many', async () => {
  const path = temporaryPath();
  const warnings: Error[] = [];
  const note = (warning: Error): void => void warnings.push(warning);
  process.on('warning', note);
  const many = await servePages(path, zero(4096));
  const crowd = await Promise.all(Array.from({ length: 20 }, () => HandClient.connect(path)));
  await until(() => many.stats().clients === 20);
  await many.close();
  assert.equal(many.stats().clients, 0);
  for (const client of crowd) assert.equal((await client.rest()).length, 0);

  const server = await servePages(path, zero(4096));
  const closed = new Promise<void>((resolve, reject) => {
    server.once('client', () => server.close().then(resolve, reject));
  });
  const clients = await Promise.allSettled([HandClient.connect(path), HandClient.connect(path)]); // one is too late
  await closed;
  for (const client of crowd) client.close();
  for (const client of clients) if (client.status === 'fulfilled') client.value.close();
  process.off('warning', note);
  assert.deepEqual(warnings, []);
});

test('a signal that is aborted while the store is being opened makes no server', async () => {
  const before = openFds();
  for (let turns = 0; turns < 12; turns++) {
    const path = temporaryPath();
    const controller = new AbortController();
    const serving = servePages(path, zero(4096), { signal: controller.signal });
    const waiting = Promise.race([serving, (async () => {})()]).catch(() => {});
    for (let turn = 0; turn < turns; turn++) await undefined;
    controller.abort();
    const server = await serving.catch(() => undefined);
    await waiting;
    await until(() => !existsSync(path));
    await server?.close();
  }
  assert.equal(openFds(), before);
});

test('closing leaves what has taken the place of the socket', async () => {
  const path = temporaryPath();
  const server = await servePages(path, zero(4096));
  const { unlinkSync } = await import('node:fs');
  unlinkSync(path);
  writeFileSync(path, 'mine');
  await server.close();
  assert.equal(readFileSync(path, 'utf8'), 'mine');
});

test('wrong arguments and stores that cannot be opened are told in a sentence, and no socket is made', async () => {
  const path = temporaryPath();
  const before = openFds();
  const cases: [() => Promise<unknown>, object][] = [
    [() => servePages(3 as never, zero(1)), { name: 'TypeError', message: /path must be a string, not 3/ }],
    [() => servePages(path, undefined as never), { name: 'TypeError', message: /there is no store/ }],
    [() => servePages(path, {} as never), { name: 'TypeError', message: /^servePages\(\): the store must come from/ }],
    [() => servePages(path, zero(1), { bse: 1n } as never), { message: /did you mean 'base'\?/ }],
    [() => servePages(path, zero(1), { base: 1 as never }), { name: 'TypeError', message: /base must be a bigint/ }],
    [
      () => servePages(path, zero(1), { base: 1n }),
      { name: 'RangeError', message: /multiple of 4096, and 0x1 is not/ },
    ],
    [
      () => servePages(path, zero(8192), { base: (1n << 64n) - 4096n }),
      { name: 'RangeError', message: /beyond 2\^64/ },
    ],
    [() => servePages(path, zero(1), { maxPageSize: 5000 }), { name: 'RangeError', message: /power of two from 4096/ }],
    [() => servePages(path, zero(1), { maxClients: 0 }), { name: 'RangeError', message: /maxClients/ }],
    [() => servePages(path, zero(1), { mode: 0o1777 }), { name: 'RangeError', message: /mode/ }],
    [() => servePages(path, file('/nowhere/at/all')), { code: 'ERR_PAGEFAULT_STORE_OPEN', message: /no such file/ }],
    [() => servePages(path, file('/dev/zero')), { code: 'ERR_PAGEFAULT_STORE_OPEN', message: /it is a device/ }],
    [() => servePages(path, uds('/nowhere/at/all')), { code: 'ERR_PAGEFAULT_OPEN', path: '/nowhere/at/all' }],
    [() => servePages(path, memory(new Uint8Array(0))), { code: 'ERR_PAGEFAULT_STORE_EMPTY', message: /no bytes/ }],
  ];
  for (const [call, expected] of cases) await assert.rejects(call(), expected);
  assert.equal(existsSync(path), false);
  assert.equal(openFds(), before);
});

test('a hand-made server is enough for a chain: one that is lost fails the page, and the client is closed', async () => {
  const upstream = temporaryPath();
  const hand = await HandServer.listen(upstream, (_, socket) => void socket.write(head(1n, 2n)));
  await withServer(uds(upstream, { base: BASE }), {}, async (path, server) => {
    const told = new Promise<Error>((resolve) => server.once('pageerror', resolve));
    await withClient(path, async (client) => {
      client.send(request(1));
      assert.equal((await client.rest()).length, 0);
    });
    assert.equal(((await told) as Error & { code: string }).code, 'ERR_PAGEFAULT_PROTOCOL');
  });
  await hand.close();
});
