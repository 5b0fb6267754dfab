/** Stores in JavaScript that throw, answer wrongly, never answer, or take their Worker with them: never a hang, never zeroes. */

import assert from 'node:assert/strict';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Backend, type MapOptions, map, PageError, type Segment, systemPageSize } from 'pagefault';
import { custom } from 'pagefault/stores';
import { CONTROL, type Mode, makeControl, setMode } from '../fixtures/faulty.js';
import { patternByte } from '../fixtures/pattern.js';
import { until } from '../helpers/descriptors.js';
import { onEachBackend } from '../helpers/stores.js';

const PAGE = systemPageSize();
const PAGES = 64;
const module = new URL('../fixtures/faulty.js', import.meta.url);

interface Faulty {
  segment: Segment;
  bytes: Uint8Array;
  control: Int32Array;
}

async function faulty(backend: Backend, options: MapOptions = {}, concurrency?: number): Promise<Faulty> {
  const control = makeControl();
  const store = {
    byteLength: PAGES * PAGE,
    control: control.buffer,
    ...(concurrency === undefined ? {} : { concurrency }),
  };
  const segment = await map(custom(module, store), {
    backend,
    readahead: 0,
    faultTimeoutMs: 300,
    name: 'faulty',
    ...options,
  });
  return { segment, bytes: segment.view(Uint8Array), control };
}

/** Long enough for a Worker that does not get its CPU for a while: else the page is late, whatever its store says. */
const DEADLINE_MS = 1000;

const failures: [mode: Mode, code: string, message: RegExp, cause: RegExp | undefined][] = [
  ['throw', 'ERR_PAGEFAULT_STORE', /thrown at \d+/, /^thrown at \d+$/],
  ['reject', 'ERR_PAGEFAULT_STORE', /rejected at \d+/, /^rejected at \d+$/],
  ['permanent', 'ERR_PAGEFAULT_STORE', /no such page/, /^there is no such page$/],
  ['short', 'ERR_PAGEFAULT_SHORT_READ', /4095 of 4096 bytes/, undefined],
  ['long', 'ERR_PAGEFAULT_LONG_READ', /4097 bytes where 4096/, undefined],
  ['undefined', 'ERR_PAGEFAULT_STORE', /read returned undefined/, undefined],
  // The Worker says how late it is; where it does not get to that, the thread that waits says it.
  ['never', 'ERR_PAGEFAULT_TIMEOUT', /within (\d+ ms|faultTimeoutMs)/, undefined],
];

for (const [mode, code, message, cause] of failures) {
  onEachBackend(`a store that does "${mode}" gives PageError with the reason, and heals`, async (backend) => {
    const { segment, bytes, control } = await faulty(backend, { faultTimeoutMs: DEADLINE_MS });
    try {
      assert.equal(bytes[0], patternByte(0));
      setMode(control, mode, 2 * PAGE);
      const expected = (error: unknown): boolean => {
        assert.ok(error instanceof PageError, String(error));
        assert.equal(error.code, code);
        assert.match(error.message, message);
        assert.equal(error.segment, 'faulty');
        assert.equal(error.page, (error.offset ?? 0) / PAGE);
        if (cause !== undefined) {
          assert.match((error.cause as Error).message, cause);
          assert.equal((error.cause as Error).name, 'StoreFailure');
          assert.equal((error.cause as { code?: string }).code, 'E_FAULTY');
          assert.match((error.cause as Error).stack ?? '', /faulty\.(js|ts)/);
        }
        return true;
      };
      const start = performance.now();
      assert.throws(() => segment.read(2 * PAGE, 1), expected);
      assert.throws(() => segment.attempt(() => bytes[3 * PAGE]), expected);
      await assert.rejects(segment.load(4 * PAGE, PAGE), expected);
      await assert.rejects(segment.pin(5 * PAGE, PAGE), expected);
      assert.ok(performance.now() - start < 4 * 3 * DEADLINE_MS, 'each within its deadline');
      assert.equal(bytes[PAGE], patternByte(PAGE), 'other pages stay usable');
      const { failedPages, failures: given, pinnedPages } = segment.stats();
      assert.ok(failedPages >= 2 && given >= 4, `${failedPages} ${given}`);
      assert.equal(pinnedPages, 0);
      setMode(control, 'well');
      await segment.load();
      for (let page = 0; page < PAGES; page++) assert.equal(bytes[page * PAGE + 1], patternByte(page * PAGE + 1));
      assert.equal(segment.stats().failedPages, 0);
    } finally {
      await segment.close();
    }
    assert.equal(control[CONTROL.closed], 1);
  });
}

onEachBackend('errors are told once more as events', async (backend) => {
  const { segment, control } = await faulty(backend);
  const told: PageError[] = [];
  segment.addEventListener('pageerror', (event) => told.push((event as Event & { error: PageError }).error));
  setMode(control, 'short');
  assert.throws(() => segment.read(7 * PAGE, 1), PageError);
  for (let i = 0; told.length === 0 && i < 200; i++) await sleep(100);
  assert.equal(told.length, 1);
  assert.equal(told[0]?.offset, 7 * PAGE);
  assert.equal(told[0]?.code, 'ERR_PAGEFAULT_SHORT_READ');
  await segment.close();
});

onEachBackend('a store that fails for a while is asked again until it answers', async (backend) => {
  const { segment, bytes, control } = await faulty(backend, { faultTimeoutMs: 10_000 });
  setMode(control, 'throw');
  const healing = until(() => (control[CONTROL.reads] ?? 0) >= 4).then(() => setMode(control, 'well'));
  await segment.load(0, PAGE);
  await healing;
  assert.equal(bytes[9], patternByte(9));
  const { retries, storeReads, failures: given } = segment.stats();
  assert.ok(retries >= 3, `${retries}`);
  assert.ok(storeReads > retries);
  assert.equal(given, 0);
  await segment.close();
});

for (const [mode, reason] of [
  ['exit', /exited with code 3/],
  ['crash', /an exception that nobody catches/],
  ['reject elsewhere', /a rejection that nobody handles/],
] as const) {
  onEachBackend(`a store that takes its Worker down with "${mode}" fails its faults at once`, async (backend) => {
    const { segment, bytes, control } = await faulty(backend, { faultTimeoutMs: 20_000 });
    const other = await faulty(backend);
    assert.equal(bytes[0], patternByte(0));
    setMode(control, mode, PAGE);
    const start = performance.now();
    const expected = { name: 'PageError', code: 'ERR_PAGEFAULT_STORE_GONE', message: reason };
    assert.throws(() => segment.read(PAGE, 1), expected);
    assert.throws(() => segment.read(2 * PAGE, 1), expected);
    assert.throws(() => other.segment.read(0, 1), expected);
    assert.throws(() => segment.attempt(() => bytes[3 * PAGE]), expected);
    assert.ok(performance.now() - start < 15_000, 'before the deadline');
    assert.equal(bytes[0], patternByte(0), 'what is loaded stays');
    await segment.close();
    await other.segment.close();
    const next = await faulty(backend);
    assert.equal(next.bytes[5 * PAGE], patternByte(5 * PAGE), 'the next map() has a new Worker');
    await next.segment.close();
  });
}

onEachBackend('a store that never gives its thread back is given up by the core', async (backend) => {
  const { segment, control } = await faulty(backend, { faultTimeoutMs: 200 });
  setMode(control, 'spin', PAGE);
  const start = performance.now();
  assert.throws(() => segment.read(PAGE, 1), { name: 'PageError', code: 'ERR_PAGEFAULT_TIMEOUT' });
  const took = performance.now() - start;
  assert.ok(took > 190 && took < 10_000, `${took}`);
  await assert.rejects(segment.close(), { code: 'ERR_PAGEFAULT_TIMEOUT' });
});

onEachBackend('no more reads are in flight in a store than it allows', async (backend) => {
  const { segment, control } = await faulty(backend, { faultTimeoutMs: 10_000 }, 3);
  setMode(control, 'slow');
  await Promise.all([
    segment.load(0, 10 * PAGE),
    segment.load(10 * PAGE, 10 * PAGE),
    segment.load(20 * PAGE, 10 * PAGE),
  ]);
  assert.ok((control[CONTROL.mostInFlight] ?? 0) <= 3, `${control[CONTROL.mostInFlight]}`);
  assert.equal(control[CONTROL.reads], 30, 'each page once');
  await segment.close();
});

onEachBackend('closing ends what waits for the store with a ClosedError', async (backend) => {
  const { segment, control } = await faulty(backend, { faultTimeoutMs: 60_000 });
  setMode(control, 'never');
  const loading = segment.load(0, PAGE);
  const pinning = segment.pin(PAGE, PAGE);
  await sleep(50);
  const start = performance.now();
  const outcomes = Promise.all([
    assert.rejects(loading, { code: 'ERR_PAGEFAULT_CLOSED' }),
    assert.rejects(pinning, { code: 'ERR_PAGEFAULT_CLOSED' }),
  ]);
  await segment.close();
  await outcomes;
  assert.ok(performance.now() - start < 20_000);
  assert.equal(control[CONTROL.closed], 1);
});

onEachBackend('load() and pin() that are aborted while the store thinks end soon', async (backend) => {
  const { segment, control, bytes } = await faulty(backend, { faultTimeoutMs: 60_000 });
  setMode(control, 'never', PAGE);
  for (const start of [
    (signal: AbortSignal) => segment.load(0, 4 * PAGE, { signal }),
    (signal: AbortSignal) => segment.pin(0, 4 * PAGE, { signal }),
  ]) {
    const abort = new AbortController();
    const reason = new Error('not needed');
    const waiting = start(abort.signal);
    setTimeout(() => abort.abort(reason), 30);
    const before = performance.now();
    await assert.rejects(waiting, reason);
    assert.ok(performance.now() - before < 20_000);
  }
  assert.equal(segment.stats().pinnedPages, 0);
  assert.equal(bytes[0], patternByte(0));
  await segment.close();
});
