import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { Worker } from 'node:worker_threads';
import { map } from 'pagefault';
import { type PagedProcess, type PagingEvent, type SpawnPagedOptions, spawnPaged } from 'pagefault/guests';
import { file, memory, type PageStore } from 'pagefault/stores';
import { until } from '../helpers/descriptors.js';
import { VmStore } from '../helpers/firecracker-vm.js';
import { fillStored, guestProgram } from '../helpers/guest-program.js';
import { outputOf } from '../helpers/run.js';

const PAGE = 4096;

function store(pages: number, more: Partial<PageStore> = {}): PageStore {
  return {
    byteLength: pages * PAGE,
    read(offset, into) {
      fillStored(offset, into);
      return into.byteLength;
    },
    ...more,
  };
}

interface Ran {
  readonly process: PagedProcess;
  readonly output: string;
}

const quiet = { stdio: ['ignore', 'pipe', 'inherit'] } as const;

async function start(args: readonly string[], options: SpawnPagedOptions): Promise<PagedProcess> {
  return await spawnPaged(guestProgram(), args, { stdio: [...quiet.stdio], ...options });
}

async function run(args: readonly string[], options: SpawnPagedOptions): Promise<Ran> {
  const process_ = await start(args, options);
  const output = outputOf(process_.child);
  const status = await process_.exited;
  assert.equal(process_.failure, undefined);
  assert.deepEqual(status, { state: 'exited', code: 0 }, await output);
  return { process: process_, output: await output };
}

const right = (pages: number): string => `RIGHT ${pages * PAGE}\n`;
const descriptors = (): number => readdirSync('/proc/self/fd').length;

for (const strategy of ['on-demand', 'read-ahead', 'eager'] as const) {
  test(`every page is served once, ${strategy}`, { timeout: 90_000 }, async () => {
    const { process: ended, output } = await run(['read'], { store: store(300), strategy });
    assert.equal(output, right(300));
    const stats = ended.stats();
    assert.equal(stats.pages, 300);
    assert.equal(stats.bytes, 300 * PAGE);
    if (strategy === 'on-demand') assert.deepEqual([stats.faults, stats.ahead], [300, 0]);
    if (strategy === 'read-ahead')
      assert.ok(stats.faults <= 45 && stats.faults + stats.ahead >= 300, `${stats.faults}`);
    if (strategy === 'eager') assert.deepEqual([stats.faults, stats.ahead], [0, 300]);
    assert.equal(stats.serviceNs.count, stats.faults);
    assert.deepEqual([stats.forwardedSignals, stats.handlerReinstalls], [0, 0]);
  });
}

test('a store that answers later, with chunks, with null or with part of the last page', {
  timeout: 90_000,
}, async () => {
  const later = store(64, {
    async read(offset, into) {
      await new Promise((resolve) => setTimeout(resolve, offset % 3));
      const bytes = new Uint8Array(into.byteLength);
      fillStored(offset, bytes);
      return [bytes.subarray(0, 100), bytes.subarray(100)];
    },
  });
  assert.equal((await run(['churn', '4', '2000', '1', '0'], { store: later })).output, right(64));
  const zero: PageStore = { byteLength: PAGE, read: () => null };
  const seen = await start(['read'], { store: zero });
  const output = outputOf(seen.child);
  assert.deepEqual(await seen.exited, { state: 'exited', code: 9 });
  assert.match(await output, /found 0000000000000000/);
});

test('what pagefault/stores names, and an open segment, are stores', { timeout: 120_000 }, async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'pagefault-spawn-'));
  t.after(() => rm(folder, { recursive: true, force: true }));
  const bytes = new Uint8Array(500 * PAGE);
  fillStored(0, bytes);
  const path = join(folder, 'image');
  writeFileSync(path, bytes);
  assert.equal((await run(['read'], { store: file(path) })).output, right(500));
  assert.equal((await run(['churn', '2', '1000', '5'], { store: memory(bytes) })).output, right(500));
  const segment = await map(file(path), { resident: '256KiB' });
  try {
    const both = [run(['read'], { store: segment }), run(['churn', '2', '3000', '9', '0'], { store: segment })];
    for (const { output } of await Promise.all(both)) assert.equal(output, right(500));
    assert.ok(segment.stats().loads >= 500);
  } finally {
    await segment.close();
  }
});

for (const strategy of ['on-demand', 'read-ahead', 'budget'] as const) {
  test(`eight threads that read and write lose nothing, ${strategy}`, { timeout: 180_000 }, async () => {
    const seed = String(Math.floor(Math.random() * 1e6));
    const options = { store: store(200), strategy, resident: 40 * PAGE };
    const { process: ended, output } = await run(['churn', '8', '8000', seed], options);
    assert.equal(output, right(200), `seed ${seed}`);
    const stats = ended.stats();
    if (strategy !== 'budget') return;
    assert.ok(stats.evictions > 500, `${stats.evictions} evictions`);
    assert.ok(stats.saves > 50, `${stats.saves} saves`);
    assert.ok(stats.reloads > 500, `${stats.reloads} reloads`);
  });
}

test('a budget holds at every moment', { timeout: 180_000 }, async () => {
  let most = 0;
  let resident = 0;
  const onEvent = (event: PagingEvent): void => {
    if (event.type === 'copied') resident += 1;
    if (event.type === 'evicted') resident -= 1;
    most = Math.max(most, resident);
  };
  const { output } = await run(['churn', '1', '5000', '3'], {
    store: store(128),
    strategy: 'budget',
    resident: 16 * PAGE,
    onEvent,
  });
  assert.equal(output, right(128));
  assert.ok(most <= 16 && most >= 8, `${most} pages at once`);
});

test('the strategy changes while the child runs, and nothing is lost', { timeout: 180_000 }, async () => {
  const process_ = await start(['churn', '4', '20000', '11'], { store: store(256), resident: 64 * PAGE });
  const output = outputOf(process_.child);
  await process_.ready;
  const strategies = ['budget', 'read-ahead', 'budget', 'eager', 'on-demand', 'budget'] as const;
  for (const strategy of strategies) {
    process_.strategy = strategy;
    assert.equal(process_.strategy, strategy);
    await Promise.race([new Promise((resolve) => setTimeout(resolve, 60)), process_.exited]);
  }
  assert.deepEqual(await process_.exited, { state: 'exited', code: 0 }, await output);
  assert.equal(await output, right(256));
});

test('pages that the child gives up come from the store again', { timeout: 90_000 }, async () => {
  const { process: ended, output } = await run(['drop'], { store: store(50) });
  assert.equal(output, right(50));
  assert.equal(ended.stats().removed, 50);
  assert.equal(ended.stats().pages, 100);
});

for (const strategy of ['on-demand', 'budget', 'eager'] as const) {
  test(`memory that is given back and mapped again is new memory, ${strategy}`, { timeout: 120_000 }, async () => {
    const options = { store: store(30), strategy, resident: 10 * PAGE };
    const { process: ended, output } = await run(['remap'], options);
    assert.equal(output, right(30));
    assert.equal(ended.regions.length, 21);
    assert.equal(ended.regions.filter((region) => !region.over).length, 0);
    // The last one is never read, and there at the end only where everything is brought at once.
    assert.equal(ended.stats().residentBytes, strategy === 'eager' ? 30 * PAGE : 0);
  });
}

test('first writes are seen where they are asked for', { timeout: 90_000 }, async () => {
  const written = new Set<number>();
  const options: SpawnPagedOptions = {
    store: store(64),
    trackWrites: true,
    onEvent: (event) => event.type === 'written' && written.add(event.page),
  };
  await run(['churn', '1', '400', '2'], options);
  assert.ok(written.size > 20, `${written.size} pages written`);
});

test('a store that fails now and then is asked again', { timeout: 120_000 }, async () => {
  let asked = 0;
  const flaky = store(40, {
    read(offset, into) {
      asked += 1;
      if (asked % 3 === 0) throw new Error('not now');
      fillStored(offset, into);
      return into.byteLength;
    },
  });
  const { process: ended, output } = await run(['read'], { store: flaky });
  assert.equal(output, right(40));
  assert.ok(ended.stats().retries >= 10);
});

test('a page that cannot be had kills the child, never reads zero', { timeout: 90_000 }, async () => {
  const broken = store(10, {
    read(offset, into) {
      if (offset === 5 * PAGE) throw Object.assign(new Error('the disk is gone'), { permanent: true });
      fillStored(offset, into);
      return into.byteLength;
    },
  });
  const process_ = await start(['read'], { store: broken });
  const errors: Error[] = [];
  process_.on('pageerror', (error: Error) => errors.push(error));
  const output = outputOf(process_.child);
  assert.deepEqual(await process_.exited, { state: 'killed', signal: 'SIGKILL', coreDumped: false });
  assert.equal(await output, '');
  assert.equal(errors.length, 1);
  assert.match(String(errors[0]?.message), /page 5 of region 0 .* the disk is gone/);
  assert.equal(process_.stats().failures, 1);
});

test('with onFailure poison the thread that touches the page gets SIGBUS', { timeout: 90_000 }, async () => {
  const never = store(4, { read: () => new Promise<number>(() => {}) });
  const process_ = await start(['read'], { store: never, onFailure: 'poison', faultTimeoutMs: 4000 }); // its answer has as long
  const status = await process_.exited;
  assert.equal(status.state, 'killed');
  assert.equal(status.state === 'killed' && status.signal, 'SIGBUS');
});

test('ends before, during and after the handshake are told apart', { timeout: 120_000 }, async () => {
  const options = { store: store(4), handshakeTimeoutMs: 60_000 };
  const early = await start(['early', '7'], options);
  await assert.rejects(early.ready, { code: 'ERR_PAGEFAULT_GUEST_HANDSHAKE', message: /before it handed over/ });
  assert.deepEqual(await early.exited, { state: 'exited', code: 7 });
  const half = await start(['half'], options);
  await assert.rejects(half.ready, { code: 'ERR_PAGEFAULT_GUEST_HANDSHAKE' });
  assert.deepEqual(await half.exited, { state: 'exited', code: 0 });
  const noise = await start(['noise'], options);
  await assert.rejects(noise.ready, { code: 'ERR_PAGEFAULT_GUEST_HANDSHAKE', message: /magic/ });
  assert.deepEqual(await noise.exited, { state: 'killed', signal: 'SIGKILL', coreDumped: false });
  const silent = await start(['silent'], { ...options, handshakeTimeoutMs: 400 });
  await assert.rejects(silent.ready, { code: 'ERR_PAGEFAULT_TIMEOUT', message: /within 400 ms/ });
  assert.deepEqual(await silent.exited, { state: 'killed', signal: 'SIGKILL', coreDumped: false });
});

test('stop and continue are told, and a kill ends it', { timeout: 90_000 }, async () => {
  const process_ = await start(['forever'], { store: store(4) });
  outputOf(process_.child);
  await process_.ready;
  const seen: string[] = [];
  const stopped = new Promise<void>((resolve) => {
    process_.on('status', ({ state }: { state: string }) => {
      seen.push(state);
      if (state === 'stopped') process_.kill('SIGCONT');
      if (state === 'continued') resolve();
    });
  });
  process_.kill('SIGSTOP');
  await stopped;
  process_.kill('SIGTERM');
  assert.deepEqual(await process_.exited, { state: 'killed', signal: 'SIGTERM', coreDumped: false });
  assert.deepEqual(seen, ['stopped', 'continued', 'killed']);
});

test('nothing is left: no descriptor, no process', { timeout: 180_000 }, async () => {
  await run(['read'], { store: store(4) });
  const before = descriptors();
  for (let i = 0; i < 10; i++) {
    await run(['churn', '2', '500', String(i)], { store: store(20), strategy: 'budget', resident: 8 * PAGE });
    const early = await start(['early', '1'], { store: store(4) });
    await early.exited;
    await assert.rejects(spawnPaged('/no/such/program', [], { store: store(4) }), {
      code: 'ERR_PAGEFAULT_GUEST_GONE',
      message: /ENOENT/,
    });
    const closed = await start(['forever'], { store: store(4), ...(i % 2 === 0 ? { strategy: 'eager' } : {}) });
    await closed.close();
  }
  await until(() => descriptors() <= before); // Node closes the pipes of a child in its own time
  const { stdout } = spawnSync('ps', ['--ppid', String(process.pid), '-o', 'args='], { encoding: 'utf8' });
  assert.doesNotMatch(stdout, /guest-program/);
});

test('an abort kills the child', { timeout: 90_000 }, async () => {
  const controller = new AbortController();
  const process_ = await start(['forever'], { store: store(4), signal: controller.signal });
  await process_.ready;
  controller.abort();
  assert.equal((await process_.exited).state, 'killed');
  const aborted = start(['forever'], { store: store(4), signal: AbortSignal.abort(new Error('no')) });
  await assert.rejects(aborted, /no/);
});

test('a child that is killed while its page is being pinned leaves nothing pinned', { timeout: 90_000 }, async () => {
  const pages = new VmStore(16 * PAGE, 0, 'held');
  const segment = await map(pages.ref);
  try {
    const process_ = await start(['read'], { store: segment });
    await until(() => pages.asked > 0);
    await process_.close();
    pages.mode = 'well';
    await segment.load(0, PAGE);
    await until(() => segment.release(0, PAGE) === PAGE);
  } finally {
    await segment.close();
  }
});

test('a Worker pages children too', { timeout: 120_000 }, async () => {
  const script = `(async () => {
    const { parentPort, workerData } = require('node:worker_threads');
    const { spawnPaged } = await import('pagefault/guests');
    const { zero } = await import('pagefault/stores');
    const child = await spawnPaged(workerData, ['touch', '0', '3'], { store: zero(4 * ${PAGE}), stdio: 'ignore' });
    parentPort.postMessage([await child.exited, child.stats().pages]);
  })()`;
  const worker = new Worker(script, { eval: true, workerData: guestProgram() });
  const [message] = await once(worker, 'message');
  assert.deepEqual(message, [{ state: 'exited', code: 0 }, 2]);
});

test('wrong arguments are one sentence each', async () => {
  const good = store(4);
  const wrong: [Promise<unknown>, RegExp][] = [
    [spawnPaged('', [], { store: good }), /command must be a string/],
    [spawnPaged('x', [1 as unknown as string], { store: good }), /array of strings/],
    [spawnPaged('x', [], {} as SpawnPagedOptions), /there is no store/],
    [spawnPaged('x', [], { store: 5 as unknown as PageStore }), /store/],
    [spawnPaged('x', [], { store: store(0) }), /byteLength/],
    [spawnPaged('x', [], { store: good, strategy: 'lazy' as 'eager' }), /strategy must be one of/],
    [spawnPaged('x', [], { store: good, readahead: 0 }), /readahead must be/],
    [spawnPaged('x', [], { store: good, faultTimeoutMs: -1 }), /faultTimeoutMs/],
    [spawnPaged('x', [], { store: good, busyPollUs: 1.5 }), /busyPollUs/],
    [spawnPaged('x', [], { store: good, resident: '5 apples' }), /resident/],
    [spawnPaged('x', [], { store: good, stategy: 'eager' } as unknown as SpawnPagedOptions), /did you mean 'strategy'/],
  ];
  for (const [promise, message] of wrong) await assert.rejects(promise, { message });
});

test('64 children at once each get what is theirs', { timeout: 180_000 }, async () => {
  const ran = await Promise.all(
    Array.from({ length: 64 }, (_, i) => {
      const strategy = (['on-demand', 'read-ahead', 'budget', 'eager'] as const)[i % 4] ?? 'eager';
      return run(['churn', '2', '300', String(i)], { store: store(40), strategy, resident: 12 * PAGE });
    }),
  );
  for (const { output } of ran) assert.equal(output, right(40));
});

test('a parent that starts children again and again does not grow', { timeout: 180_000 }, async () => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  const rss = async (rounds: number): Promise<number> => {
    for (let i = 0; i < rounds; i++) {
      await run(['churn', '1', '400', String(i)], { store: store(100), strategy: 'budget', resident: 20 * PAGE });
    }
    for (let i = 0; i < 3; i++) {
      collect();
      await new Promise((resolve) => setImmediate(resolve));
    }
    return process.memoryUsage.rss();
  };
  const before = await rss(30);
  const grown = (await rss(70)) - before;
  assert.ok(grown < 8 * 2 ** 20, `${grown} bytes in 70 rounds, each of which kept up to 400 KiB for its child`);
});

test('the memory of the children is that of processes of their own', { timeout: 120_000 }, async () => {
  const many = await Promise.all(
    Array.from({ length: 12 }, (_, i) => run(['churn', '2', '2000', String(i)], { store: store(64) })),
  );
  assert.equal(new Set(many.map(({ process: { pid } }) => pid)).size, 12);
  for (const { output } of many) assert.equal(output, right(64));
  assert.ok(readFileSync('/proc/self/status', 'utf8').length > 0);
});
