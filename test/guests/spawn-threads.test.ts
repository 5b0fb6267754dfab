/** Children of `spawnPaged` whose faults threads of the core answer: who has them, and that nobody can tell the difference. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { map } from 'pagefault';
import { type PagedProcess, type SpawnPagedOptions, spawnPaged } from 'pagefault/guests';
import { observedProcess } from 'pagefault/observe';
import { custom, file, memory, type PageStore, zero } from 'pagefault/stores';
import { openFds, until } from '../helpers/descriptors.js';
import { fillStored, guestProgram } from '../helpers/guest-program.js';
import { outputOf } from '../helpers/run.js';

const TIMEOUT = { timeout: 90_000 };
const PAGE = 4096;
const folder = mkdtempSync(join(tmpdir(), 'pagefault-threads-'));
after(() => rmSync(folder, { recursive: true, force: true }));

const stored = (byteLength: number): Uint8Array => {
  const bytes = new Uint8Array(byteLength);
  fillStored(0, bytes);
  return bytes;
};

function image(name: string, pages: number): string {
  const path = join(folder, name);
  writeFileSync(path, stored(pages * PAGE));
  return path;
}

const start = (args: readonly string[], options: SpawnPagedOptions): Promise<PagedProcess> =>
  spawnPaged(guestProgram(), args, { stdio: ['ignore', 'pipe', 'inherit'], ...options });

/** Runs to the end, which is to be a good one. */
async function run(args: readonly string[], options: SpawnPagedOptions): Promise<PagedProcess> {
  const child = await start(args, options);
  const output = outputOf(child.child);
  const status = await child.exited;
  assert.equal(child.failure, undefined);
  assert.deepEqual(status, { state: 'exited', code: 0 }, await output);
  assert.match(await output, /^RIGHT /);
  return child;
}

test('a child goes on, and ends, while the event loop of its parent stands still', TIMEOUT, async () => {
  const child = await start(['read'], { store: file(image('blocked', 600)) });
  const output = outputOf(child.child);
  await child.ready;
  // Not one turn of the loop from here on, until the child has ended: nothing that JavaScript does can have helped it.
  const asleep = new Int32Array(new SharedArrayBuffer(4));
  const deadline = performance.now() + 60_000;
  const hasEnded = (): boolean => /\) Z /.test(readFileSync(`/proc/${child.pid}/stat`, 'latin1'));
  while (!hasEnded() && performance.now() < deadline) Atomics.wait(asleep, 0, 0, 5);
  assert.ok(hasEnded());
  assert.equal(child.stats().faults, 600);
  assert.equal(child.servedBy, 'threads');
  assert.deepEqual(await child.exited, { state: 'exited', code: 0 });
  assert.equal(await output, `RIGHT ${600 * PAGE}\n`);
});

test('which child threads answer depends on its store, and on what was asked for', TIMEOUT, async () => {
  const path = image('whose', 4);
  await using segment = await map(file(path), { resident: '64KiB' });
  await using large = await map(file(path), { pageSize: 4 * PAGE });
  const own: PageStore = { byteLength: PAGE, read: (_, into) => into.byteLength };
  const moduleUrl = new URL('../fixtures/vm-store.js', import.meta.url);
  const slow = custom(moduleUrl, { byteLength: PAGE, control: new SharedArrayBuffer(64) });
  const cases: [SpawnPagedOptions, 'threads' | 'event loop'][] = [
    [{ store: file(path) }, 'threads'],
    [{ store: file(path, { offset: PAGE }) }, 'threads'],
    [{ store: memory(stored(PAGE)) }, 'threads'],
    [{ store: zero(PAGE) }, 'threads'],
    [{ store: segment, strategy: 'eager' }, 'threads'],
    [{ store: large }, 'event loop'],
    [{ store: own }, 'event loop'],
    [{ store: slow }, 'event loop'],
    [{ store: zero(PAGE), strategy: 'read-ahead' }, 'event loop'],
    [{ store: zero(PAGE), strategy: 'budget' }, 'event loop'],
    [{ store: zero(PAGE), trackWrites: true }, 'event loop'],
    [{ store: zero(PAGE), onFailure: 'poison' }, 'event loop'],
    [{ store: zero(PAGE), busyPollUs: 0 }, 'event loop'],
    [{ store: zero(PAGE), onEvent: () => {} }, 'event loop'],
  ];
  const ran = await Promise.all(
    cases.map(async ([options, by], i) => {
      await using child = await start(['forever'], options);
      await child.ready;
      assert.equal(child.servedBy, by, `case ${i}`);
      assert.deepEqual(
        child.regions.map(({ servedBy }) => servedBy),
        [by],
      );
    }),
  );
  assert.equal(ran.length, cases.length);
});

for (const by of ['threads', 'event loop'] as const) {
  const ask = by === 'threads' ? {} : { busyPollUs: 50 };

  test(`statistics and states are the same, ${by}`, TIMEOUT, async () => {
    const path = image('counted', 50);
    const dropped = await run(['drop'], { store: file(path), ...ask });
    assert.equal(dropped.servedBy, by);
    const { faults, pages, bytes, ahead, removed, failures, residentBytes, serviceNs } = dropped.stats();
    assert.deepEqual(
      { faults, pages, bytes, ahead, removed, failures, residentBytes, services: serviceNs.count },
      {
        faults: 100,
        pages: 100,
        bytes: 100 * PAGE,
        ahead: 0,
        removed: 50,
        failures: 0,
        residentBytes: 50 * PAGE,
        services: 100,
      },
    );
    assert.ok(serviceNs.p50 > 100 && serviceNs.max >= serviceNs.p50, JSON.stringify(serviceNs));
    assert.equal(dropped.regions[0]?.pages.resident, 50);
    const seen = observedProcess(dropped).numbers();
    assert.deepEqual([seen.demand, seen.present, seen.pages], [100, 50, 50]);

    const all = await run(['read'], { store: file(path), strategy: 'eager', ...ask });
    assert.deepEqual([all.stats().faults, all.stats().ahead, all.stats().pages], [0, 50, 50]);

    const mapped = await run(['remap'], { store: memory(stored(50 * PAGE)), ...ask });
    assert.equal(mapped.regions.length, 21);
    assert.equal(mapped.regions.filter((region) => !region.over).length, 0);
    assert.equal(mapped.stats().residentBytes, 0);
    assert.equal(mapped.stats().pages, 20 * 50);
  });

  test(`a page that cannot be had kills the child, ${by}`, TIMEOUT, async () => {
    const path = image(`short ${by}`, 10);
    const child = await start(['read'], { store: file(path), ...ask });
    const errors: Error[] = [];
    child.on('pageerror', (error: Error) => errors.push(error));
    truncateSync(path, 5 * PAGE);
    assert.deepEqual(await child.exited, { state: 'killed', signal: 'SIGKILL', coreDumped: false });
    assert.equal(child.servedBy, by);
    assert.equal(errors.length, 1);
    assert.match(String(errors[0]?.message), /^page 0 of region 0 of process \d+ cannot be had: /);
    assert.equal((errors[0] as { code?: string }).code, 'ERR_PAGEFAULT_GUEST_GONE');
    assert.ok(errors[0]?.cause instanceof Error);
    assert.equal(child.failure, errors[0]);
    assert.equal(child.stats().failures, 1);
  });
}

test('eight threads that write lose nothing when the event loop takes the child over', TIMEOUT, async () => {
  const bytes = memory(stored(200 * PAGE));
  for (const strategy of ['budget', 'read-ahead'] as const) {
    const child = await start(['churn', '8', '1000', '7'], { store: bytes, resident: 40 * PAGE });
    const output = outputOf(child.child);
    await child.ready;
    assert.equal(child.servedBy, 'threads');
    child.strategy = strategy; // it has had its answer a moment ago, and touches its first pages
    assert.equal(child.servedBy, 'event loop');
    assert.deepEqual(await child.exited, { state: 'exited', code: 0 }, await output);
    assert.equal(await output, `RIGHT ${200 * PAGE}\n`);
    assert.ok(child.stats().pages >= 200);
  }
});

test(
  'what threads have brought is known to the event loop, which takes it away where it is too much',
  TIMEOUT,
  async () => {
    const store = memory(stored(200 * PAGE));
    await using child = await start(['forever'], { store, strategy: 'eager', resident: 40 * PAGE });
    await child.ready;
    assert.deepEqual([child.servedBy, child.stats().ahead, child.stats().residentBytes], ['threads', 200, 200 * PAGE]);
    child.strategy = 'budget';
    await until(() => child.stats().residentBytes <= 40 * PAGE, 60_000);
    assert.ok(child.stats().evictions >= 160);
    assert.equal(child.failure, undefined);
  },
);

test('nothing is left of the threads part: no descriptor', TIMEOUT, async () => {
  const store = file(image('left', 4));
  await run(['read'], { store });
  const before = openFds();
  for (let i = 0; i < 3; i++) {
    await run(['remap'], { store });
    const closed = await start(['forever'], { store });
    await closed.ready;
    await closed.close();
    const early = await start(['early', '3'], { store });
    await early.exited;
  }
  await until(() => openFds() <= before);
});
