/** `Pager`: regions, faults, prewarming, counters, shutdown, and every way in which a source can fail. */

import assert from 'node:assert/strict';
import { truncateSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { OutOfRegionError, PageSourceError } from 'pagefault';
import { bootCritical, Pager, type PagerOptions } from 'pagefault/guests';
import { custom, file, memory, type StoreRef, uds, zero } from 'pagefault/stores';
import { fillPattern } from '../fixtures/pattern.js';
import { openFds, until } from '../helpers/descriptors.js';
import { answerTo, HandServer, head } from '../helpers/page-server.js';
import { runNode } from '../helpers/run.js';
import { patternBytes, patternFile, patternModule, temporaryPath } from '../helpers/stores.js';

const BASE = 0x8000_0000n;
const SIZES = [4096, 16_384, 2 ** 21];

/** What the pattern has at an offset. */
function pattern(offset: number, byteLength: number): Uint8Array {
  const bytes = new Uint8Array(byteLength);
  fillPattern(offset, bytes);
  return bytes;
}

async function withPager(
  source: StoreRef,
  options: PagerOptions,
  body: (pager: Pager) => void | Promise<void>,
): Promise<void> {
  const before = openFds();
  const pager = new Pager(source, { pollIntervalMs: 10, ...options });
  try {
    await body(pager);
  } finally {
    pager.requestShutdown();
    await pager.closed;
  }
  if (source.kind !== 'custom') await until(() => openFds() <= before); // the Worker of the others stays for a while
}

test('a region holds its addresses and no others, and one that would wrap 2^64 ends there', async () => {
  await withPager(zero(2 ** 20), {}, (pager) => {
    assert.equal(pager.contains(BASE), false);
    pager.registerRegion(BASE, 0x1000n);
    pager.registerRegion(0xffff_ffff_ffff_f000n, 0x10_0000n);
    assert.deepEqual(
      [BASE - 1n, BASE, BASE + 0xfffn, BASE + 0x1000n].map((address) => pager.contains(address)),
      [false, true, true, false],
    );
    assert.deepEqual(
      [0xffff_ffff_ffff_efffn, 0xffff_ffff_ffff_f000n, 0xffff_ffff_ffff_ffffn, 0n, 0xf_efffn].map((address) =>
        pager.contains(address),
      ),
      [false, true, true, false, false],
    );
  });
});

test('the last page below 2^64 is served', async () => {
  await withPager(memory(patternBytes(4096)), {}, async (pager) => {
    pager.registerRegion(0xffff_ffff_ffff_f000n, 0x2000n);
    assert.deepEqual(await pager.serveFault(0xffff_ffff_ffff_ffffn), pattern(0, 4096));
  });
});

for (const pageSize of SIZES) {
  const sources: [string, () => StoreRef][] = [
    ['file', () => file(patternFile(2 * pageSize))],
    ['memory', () => memory(patternBytes(2 * pageSize))],
    ['custom', () => custom(patternModule, { byteLength: 2 * pageSize })],
  ];
  for (const [kind, make] of sources) {
    test(`serveFault aligns the address down to pages of ${pageSize} bytes (${kind})`, async () => {
      await withPager(make(), { pageSize }, async (pager) => {
        pager.registerRegion(BASE, BigInt(2 * pageSize));
        const inside = BigInt(pageSize) + 0x234n;
        assert.deepEqual(await pager.serveFault(BASE + inside), pattern(pageSize, pageSize));
        assert.deepEqual(await pager.serveFault(BASE), pattern(0, pageSize));
        assert.equal(pager.stats().faults, 2);
        assert.equal(pager.stats().bytes, 2 * pageSize);
      });
    });
  }

  test(`a page server is asked for the aligned address and ${pageSize} bytes`, async () => {
    const path = temporaryPath();
    const server = await HandServer.listen(path, (asked, socket) => void socket.write(answerTo(asked, BASE)));
    try {
      await withPager(uds(path, { base: BASE, pageSize }), { pageSize }, async (pager) => {
        pager.registerRegion(BASE, 0x1000_0000n);
        const page = await pager.serveFault(BASE + BigInt(pageSize) + (0x1234n % BigInt(pageSize)));
        assert.deepEqual(page, pattern(pageSize, pageSize));
        assert.deepEqual(server.asked, [{ address: BASE + BigInt(pageSize), pageSize: BigInt(pageSize) }]);
      });
    } finally {
      await server.close();
    }
  });
}

test('one fault may ask for another page size than the pager', async () => {
  await withPager(memory(patternBytes(65_536)), { pageSize: 16_384 }, async (pager) => {
    pager.registerRegion(BASE, 0x1_0000n);
    assert.deepEqual(await pager.serveFault(BASE + 0x5678n, 4096), pattern(0x5000, 4096));
    assert.deepEqual(await pager.serveFault(BASE + 0x5678n), pattern(0x4000, 16_384));
  });
});

test('an address outside any region is an OutOfRegionError that has it, and counts as nothing', async () => {
  await withPager(zero(2 ** 20), {}, async (pager) => {
    pager.registerRegion(BASE, 0x1000n);
    await assert.rejects(pager.serveFault(0xc000_0000n), (error: unknown) => {
      assert.ok(error instanceof OutOfRegionError);
      assert.equal(error.code, 'ERR_PAGEFAULT_OUT_OF_REGION');
      assert.equal(error.address, 0xc000_0000n);
      assert.match(error.message, /^address 0xc0000000 is outside any region; 1 is registered$/);
      return true;
    });
    assert.equal(pager.stats().faults, 0);
  });
});

test('a memory file is read at address minus start, and addresses below the start are refused with both numbers', async () => {
  await withPager(file(patternFile(65_536)), { start: BASE + 0x4000n }, async (pager) => {
    pager.registerRegion(BASE, 0x1_0000n);
    assert.deepEqual(await pager.serveFault(BASE + 0x6123n), pattern(0x2000, 4096));
    await assert.rejects(pager.serveFault(BASE + 0x3fffn), {
      name: 'RangeError',
      code: 'ERR_PAGEFAULT_OUT_OF_RANGE',
      message: 'address 0x80003000 is below 0x80004000, where the source starts',
    });
  });
});

test('without a start the source starts at the lowest region', async () => {
  await withPager(file(patternFile(65_536)), {}, async (pager) => {
    pager.registerRegion(BASE + 0x8000n, 0x1000n);
    pager.registerRegion(BASE, 0x1000n);
    assert.deepEqual(await pager.serveFault(BASE + 0x8000n), pattern(0x8000, 4096));
  });
});

test('bootCritical lists the kernel text, the stack and the device tree in this order', () => {
  assert.deepEqual(bootCritical(0x8000_2000n, 0x9000_0000n, 0x9f00_0000n), [0x8000_2000n, 0x9000_0000n, 0x9f00_0000n]);
  assert.deepEqual(Pager.bootCritical(1n, 2n, 3n), [1n, 2n, 3n]);
  assert.throws(() => bootCritical(1 as never, 2n, 3n), { name: 'TypeError', message: /kernelText must be a bigint/ });
});

test('prewarmed pages count as faults, and are there when their fault comes, without another read', async () => {
  const path = temporaryPath();
  const server = await HandServer.listen(path, (asked, socket) => void socket.write(answerTo(asked, BASE)));
  const prewarm = bootCritical(BASE + 0x2123n, BASE + 0x9000n, BASE + 0x5000n);
  try {
    await withPager(uds(path, { base: BASE }), { prewarm }, async (pager) => {
      pager.registerRegion(BASE, 0x1_0000n);
      await pager.prewarm();
      assert.equal(pager.stats().prewarmed, 3);
      assert.equal(pager.stats().faults, 3);
      assert.deepEqual(
        server.asked.map(({ address }) => address - BASE),
        [0x2000n, 0x9000n, 0x5000n],
      );
      assert.deepEqual(await pager.serveFault(BASE + 0x9fffn), pattern(0x9000, 4096));
      assert.equal(server.asked.length, 3);
      assert.equal(pager.stats().faults, 4);
      assert.deepEqual(await pager.serveFault(BASE + 0x9fffn), pattern(0x9000, 4096));
      assert.equal(server.asked.length, 4);
    });
  } finally {
    await server.close();
  }
});

test('prewarm stops at the first error, and what came before it counts', async () => {
  const prewarm = [BASE, BASE + 0x1000n, 0x1000n, BASE + 0x2000n];
  await withPager(memory(patternBytes(65_536)), { prewarm }, async (pager) => {
    pager.registerRegion(BASE, 0x1_0000n);
    await assert.rejects(pager.prewarm(), { name: 'OutOfRegionError', address: 0x1000n });
    assert.equal(pager.stats().prewarmed, 2);
    assert.equal(pager.stats().faults, 2);
  });
});

test('statistics are plain numbers of one moment that never decrease', async () => {
  await withPager(memory(patternBytes(65_536)), { prewarm: [BASE] }, async (pager) => {
    pager.registerRegion(BASE, 0x10_0000n);
    const seen = [pager.stats()];
    await pager.prewarm();
    seen.push(pager.stats());
    for (let page = 0n; page < 20n; page++) {
      await pager.serveFault(BASE + page * 4096n).catch(() => {}); // four are behind the end
      seen.push(pager.stats());
    }
    const names = ['bytes', 'failures', 'faults', 'forwardedSignals', 'handlerReinstalls', 'prewarmed', 'retries'];
    assert.deepEqual(Object.keys(seen[0] ?? {}).sort(), names);
    for (const [i, now] of seen.entries()) {
      const before = seen[Math.max(0, i - 1)] ?? now;
      for (const [name, value] of Object.entries(now)) {
        assert.ok(value >= before[name as keyof typeof before], name);
      }
    }
    const last = pager.stats();
    assert.deepEqual([last.faults, last.failures, last.prewarmed], [17, 4, 1]);
    assert.deepEqual(seen[0], { ...seen[0], faults: 0, failures: 0, bytes: 0 }, 'a snapshot does not change');
  });
});

test('a replaced signal handler is put back within pollIntervalMs, and counted; signals that are not ours are forwarded, and counted', async () => {
  const script = `
    import { once } from 'node:events';
    import { setTimeout as sleep } from 'node:timers/promises';
    import { map } from 'pagefault';
    import { Pager } from 'pagefault/guests';
    import { zero } from 'pagefault/stores';
    const segment = await map(zero(4096), { pollIntervalMs: 3_600_000 }); // the core itself would notice in an hour
    const pager = new Pager(zero(4096), { pollIntervalMs: 20 });
    const before = pager.stats();
    const heard = once(process, 'SIGSEGV'); // libuv puts its handler over ours
    while (pager.stats().handlerReinstalls === before.handlerReinstalls) await sleep(5);
    const alive = setInterval(() => {}, 1000);
    process.kill(process.pid, 'SIGSEGV');
    await heard;
    clearInterval(alive);
    const after = pager.stats();
    console.log(JSON.stringify({ forwarded: after.forwardedSignals - before.forwardedSignals, read: segment.read(0, 1)[0] }));
    await segment.close();
  `;
  const { code, stdout, stderr } = await runNode('--input-type=module', ['-e', script], { timeoutMs: 60_000 });
  assert.equal(code, 0, stderr);
  const { forwarded, read } = JSON.parse(stdout) as { forwarded: number; read: number };
  assert.ok(forwarded >= 1, stdout);
  assert.equal(read, 0);
});

test('a shutdown is observed within pollIntervalMs: nothing new is served, and what is on its way is given up', async () => {
  const path = temporaryPath();
  const server = await HandServer.listen(path, () => {}); // never answers
  const before = openFds();
  try {
    const pager = new Pager(uds(path, { base: BASE }), { pollIntervalMs: 50 });
    pager.registerRegion(BASE, 0x1_0000n);
    const waiting = pager.serveFault(BASE);
    const refused = assert.rejects(waiting, { code: 'ERR_PAGEFAULT_CLOSED' });
    await until(() => server.asked.length === 1);
    assert.equal(pager.isShuttingDown, false);
    pager.requestShutdown();
    pager.requestShutdown();
    assert.equal(pager.isShuttingDown, true);
    await assert.rejects(pager.serveFault(BASE), { code: 'ERR_PAGEFAULT_CLOSED', message: 'the pager was shut down' });
    await pager.closed;
    await refused;
    await until(() => server.sockets.size === 0 && openFds() <= before);
  } finally {
    await server.close();
  }
});

for (const [options, ms] of [
  [{}, 1000],
  [{ pollIntervalMs: 50 }, 50],
] as const) {
  test(`a shutdown is observed at a look, every ${ms} ms: ${JSON.stringify(options)}`, async (t) => {
    t.mock.timers.enable({ apis: ['setInterval'] });
    const pager = new Pager(zero(4096), options);
    let closed = false;
    const closing = pager.closed.then(() => {
      closed = true;
    });
    t.mock.timers.tick(3 * ms); // looks at which there is nothing to observe
    pager.requestShutdown();
    t.mock.timers.tick(ms - 1);
    for (let turn = 0; turn < 20; turn++) await new Promise(setImmediate);
    assert.equal(closed, false);
    t.mock.timers.tick(1);
    await closing;
  });
}

test('a pager that nobody shuts down does not keep the process alive', async () => {
  const script = `
    import { Pager } from 'pagefault/guests';
    import { zero } from 'pagefault/stores';
    const pager = new Pager(zero(4096), { pollIntervalMs: 3_600_000 });
    pager.registerRegion(0n, 4096n);
    console.log((await pager.serveFault(0n)).byteLength);
  `;
  const { code, stdout, stderr } = await runNode('--input-type=module', ['-e', script], { timeoutMs: 60_000 });
  assert.deepEqual([code, stdout], [0, '4096\n'], stderr);
});

/* --- every way to fail --- */

async function failure(source: StoreRef, options: PagerOptions = {}, address = BASE): Promise<PageSourceError> {
  let caught: unknown;
  await withPager(source, options, async (pager) => {
    pager.registerRegion(BASE, 0x100_0000n);
    caught = await pager.serveFault(address).catch((error: unknown) => error);
    assert.equal(pager.stats().faults, 0);
    assert.equal(pager.stats().failures, 1);
  });
  assert.ok(caught instanceof PageSourceError, String(caught));
  return caught;
}

test('SHORT: a source that ends within the page tells what it has and what was expected', async () => {
  const stores = [
    file(patternFile(5000)),
    memory(patternBytes(5000)),
    zero(5000),
    custom(patternModule, { byteLength: 5000 }),
  ];
  for (const store of stores) {
    const error = await failure(store, {}, BASE + 0x1000n);
    assert.deepEqual(
      [error.code, error.got, error.expected, error.address],
      ['ERR_PAGEFAULT_SHORT', 904, 4096, BASE + 0x1000n],
    );
    assert.match(error.message, /^page at 0x80001000 of .+: 904 of 4096 bytes are there$/);
    const behind = await failure(store, {}, BASE + 0x2000n);
    assert.deepEqual([behind.code, behind.got, behind.expected], ['ERR_PAGEFAULT_SHORT', 0, 4096]);
  }
});

test('SHORT: a file that is cut off while it is served, and a store that delivers too little', async () => {
  const path = patternFile(65_536);
  await withPager(file(path), {}, async (pager) => {
    pager.registerRegion(BASE, 0x1_0000n);
    await pager.serveFault(BASE);
    truncateSync(path, 0x2100);
    await assert.rejects(pager.serveFault(BASE + 0x2000n), { code: 'ERR_PAGEFAULT_SHORT', got: 256, expected: 4096 });
  });
  const module = temporaryModule('export default () => ({ byteLength: 65536, read: () => 100 });');
  const error = await failure(custom(module));
  assert.deepEqual([error.code, error.got, error.expected], ['ERR_PAGEFAULT_SHORT', 100, 4096]);
});

test('OPEN: a file, a page server and a store module that are not there tell their path', async () => {
  const path = temporaryPath();
  const cases: [StoreRef, RegExp][] = [
    [file(path), /there is no such file \(ENOENT\)/],
    [uds(path), /cannot be reached: there is no such file \(ENOENT\)/],
    [uds(patternFile(10)), /nobody listens there/],
    [custom(path), /does not exist/],
    [file(new URL('.', patternModule)), /it is a directory/],
  ];
  for (const [store, sentence] of cases) {
    const error = await failure(store);
    assert.equal(error.code, 'ERR_PAGEFAULT_OPEN', error.message);
    assert.ok(error.path !== undefined && error.message.includes(error.path), error.message);
    assert.match(error.message, sentence);
  }
});

test('OPEN is tried again by the next fault', async () => {
  const path = temporaryPath();
  await withPager(file(path), {}, async (pager) => {
    pager.registerRegion(BASE, 0x1_0000n);
    await assert.rejects(pager.serveFault(BASE), { code: 'ERR_PAGEFAULT_OPEN', path });
    writeFileSync(path, patternBytes(4096));
    assert.deepEqual(await pager.serveFault(BASE), pattern(0, 4096));
  });
});

test('PROTOCOL: an answer that repeats another address or size tells what was expected and what was received', async () => {
  const expected = { address: BASE + 0x3000n, pageSize: 4096n };
  const wrong = [
    { address: BASE + 0x4000n, pageSize: 4096n },
    { address: BASE + 0x3000n, pageSize: 16_384n },
    { address: 0n, pageSize: 0xffff_ffff_ffff_ffffn },
  ];
  for (const received of wrong) {
    const path = temporaryPath();
    const server = await HandServer.listen(
      path,
      (_, socket) => void socket.write(head(received.address, received.pageSize)),
    );
    try {
      const error = await failure(uds(path, { base: BASE }), {}, BASE + 0x3000n);
      assert.equal(error.code, 'ERR_PAGEFAULT_PROTOCOL');
      assert.deepEqual([error.expected, error.received], [expected, received]);
      const numbers = `address 0x${received.address.toString(16)}, ${received.pageSize} bytes was received`;
      assert.ok(error.message.includes('address 0x80003000, 4096 bytes was expected'), error.message);
      assert.ok(error.message.includes(numbers), error.message);
    } finally {
      await server.close();
    }
  }
});

test('IO: what a store throws is the cause, and a file that is changed while it is served fails', async () => {
  const module = temporaryModule(
    "export default () => ({ byteLength: 65536, read() { throw Object.assign(new Error('gone fishing'), { permanent: true }); } });",
  );
  const error = await failure(custom(module));
  assert.equal(error.code, 'ERR_PAGEFAULT_IO');
  assert.match(error.message, /gone fishing/);
  assert.ok(error.cause instanceof Error && error.cause.cause instanceof Error);
  assert.equal(error.cause.cause.message, 'gone fishing');

  const path = patternFile(65_536);
  await withPager(file(path), {}, async (pager) => {
    pager.registerRegion(BASE, 0x1_0000n);
    await pager.serveFault(BASE);
    writeFileSync(path, patternBytes(65_536 + 4096));
    await assert.rejects(pager.serveFault(BASE), { code: 'ERR_PAGEFAULT_IO', message: /changed/ });
  });
  await withPager(file(path, { onChange: 'ignore' }), {}, async (pager) => {
    pager.registerRegion(BASE, 0x1_0000n);
    await pager.serveFault(BASE);
    writeFileSync(path, patternBytes(65_536));
    assert.deepEqual(await pager.serveFault(BASE + 0x1000n), pattern(0x1000, 4096));
  });
});

test('SPAWN: a store whose Worker cannot be started', async () => {
  const script = `
    import { Pager } from 'pagefault/guests';
    import { custom } from 'pagefault/stores';
    const pager = new Pager(custom(${JSON.stringify(patternModule.href)}, { byteLength: 65536 }));
    pager.registerRegion(0n, 65536n);
    const error = await pager.serveFault(0n).catch((error) => error);
    console.log(JSON.stringify([error.name, error.code, error.message, error.cause.code]));
  `;
  const permission = Number(process.versions.node.split('.')[0]) < 23 ? '--experimental-permission' : '--permission';
  const flags = [permission, '--allow-addons', '--allow-fs-read=*', '--allow-fs-write=*', '--no-warnings'];
  const { code, stdout, stderr } = await runNode(
    flags[0] ?? '',
    [...flags.slice(1), '--input-type=module', '-e', script],
    {
      timeoutMs: 60_000,
    },
  );
  assert.equal(code, 0, stderr);
  const [name, errorCode, message, cause] = JSON.parse(stdout) as string[];
  assert.deepEqual([name, errorCode, cause], ['PageSourceError', 'ERR_PAGEFAULT_SPAWN', 'ERR_PAGEFAULT_SPAWN']);
  assert.match(message ?? '', /no Worker can be started/);
});

test('TIMEOUT: a source that does not answer within faultTimeoutMs', async () => {
  const path = temporaryPath();
  const server = await HandServer.listen(path, () => {});
  try {
    const silent = await failure(uds(path, { base: BASE }), { faultTimeoutMs: 100 });
    assert.equal(silent.code, 'ERR_PAGEFAULT_TIMEOUT');
    assert.match(silent.message, /no answer within 100 ms$/);
  } finally {
    await server.close();
  }
});

test('a page server is not asked for more than it may give', async () => {
  const path = temporaryPath();
  const server = await HandServer.listen(path, () => {});
  try {
    await withPager(uds(path), { pageSize: 2 ** 22 }, async (pager) => {
      pager.registerRegion(0n, 2n ** 24n);
      const message = 'a page server gives pages of 2097152 bytes at most, and 4194304 were asked for';
      await assert.rejects(pager.serveFault(0n), { name: 'RangeError', message });
    });
    assert.equal(server.asked.length, 0);
  } finally {
    await server.close();
  }
});

test('a lost server parks the fault, and the answer comes from the next one within the deadline', async () => {
  const path = temporaryPath();
  let server = await HandServer.listen(path, (asked, socket) => void socket.write(answerTo(asked, BASE)));
  try {
    await withPager(uds(path, { base: BASE }), {}, async (pager) => {
      pager.registerRegion(BASE, 0x1_0000n);
      await pager.serveFault(BASE);
      await server.close();
      const parked = [0x1000n, 0x2000n, 0x3000n].map((at) => pager.serveFault(BASE + at));
      await until(() => pager.stats().retries >= 9);
      server = await HandServer.listen(path, (asked, socket) => void socket.write(answerTo(asked, BASE)));
      assert.deepEqual(
        await Promise.all(parked),
        [0x1000, 0x2000, 0x3000].map((at) => pattern(at, 4096)),
      );
      assert.equal(server.connections, 1);
    });
  } finally {
    await server.close();
  }
});

test('a server that stays lost is a TIMEOUT whose cause is the last try', async () => {
  const path = temporaryPath();
  const server = await HandServer.listen(path, (asked, socket) => void socket.write(answerTo(asked, BASE)));
  await withPager(uds(path, { base: BASE }), { faultTimeoutMs: 2000 }, async (pager) => {
    pager.registerRegion(BASE, 0x1_0000n);
    await pager.serveFault(BASE);
    await server.close();
    const error = await pager.serveFault(BASE).catch((caught: unknown) => caught);
    assert.ok(error instanceof PageSourceError);
    assert.equal(error.code, 'ERR_PAGEFAULT_TIMEOUT');
    assert.ok(error.cause instanceof PageSourceError);
    assert.deepEqual([error.cause.code, error.cause.path], ['ERR_PAGEFAULT_IO', path]);
    assert.match(error.message, /no answer within 2000 ms; the last try ended with: .*cannot be reached/);
  });
});

const WRONG: [() => unknown, object][] = [
  [() => new Pager('x' as never), { name: 'TypeError', message: /^Pager: the store must come from/ }],
  [() => new Pager(zero(1), { pollInterval: 1 } as never), { message: /did you mean 'pollIntervalMs'\?/ }],
  [() => new Pager(zero(1), { pollIntervalMs: 9 }), { name: 'RangeError', message: /from 10 to 3600000, not 9/ }],
  [() => new Pager(zero(1), { pollIntervalMs: '9' as never }), { name: 'TypeError' }],
  [
    () => new Pager(zero(1), { pageSize: 1000 }),
    { name: 'RangeError', message: /power of two from 4096 to 2\^30, not 1000/ },
  ],
  [
    () => new Pager(zero(1), { prewarm: [1 as never] }),
    { name: 'TypeError', message: /prewarm\[0\] must be a bigint/ },
  ],
  [() => new Pager(zero(1), { prewarm: 4n as never }), { name: 'TypeError', message: /prewarm must be an array/ }],
  [() => new Pager(zero(1), { start: -1n }), { name: 'RangeError', message: /start must be from 0n to 2\^64 - 1/ }],
  [() => new Pager(zero(1), { faultTimeoutMs: 0 }), { name: 'RangeError', message: /faultTimeoutMs/ }],
];

test('wrong arguments are told in a sentence', async () => {
  for (const [make, expected] of WRONG) assert.throws(make, expected);
  await withPager(zero(4096), {}, async (pager) => {
    assert.throws(() => pager.registerRegion(0 as never, 1n), { name: 'TypeError', message: /base must be a bigint/ });
    assert.throws(() => pager.registerRegion(0n, 0n), { name: 'RangeError', code: 'ERR_PAGEFAULT_ZERO_SIZE' });
    assert.throws(() => pager.registerRegion(0n, 5 as never), { name: 'TypeError', message: /byteLength/ });
    assert.throws(() => pager.registerRegion(1n << 64n, 1n), { name: 'RangeError' });
    assert.throws(() => pager.contains(-1n), { name: 'RangeError' });
    pager.registerRegion(0n, 4096n);
    await assert.rejects(pager.serveFault(0 as never), { name: 'TypeError', message: /address must be a bigint/ });
    await assert.rejects(pager.serveFault(0n, 3000), {
      name: 'RangeError',
      message: /pageSize must be a power of two/,
    });
  });
});

function temporaryModule(source: string): string {
  const path = `${temporaryPath()}.mjs`;
  writeFileSync(path, source);
  return path;
}
