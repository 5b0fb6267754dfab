/** `map(store, { workingSet })`: what a run touched is recorded, and loaded ahead the next time. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, rmdirSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { type Backend, type MapOptions, map, type Segment } from 'pagefault';
import { readWorkingSet } from 'pagefault/guests';
import { custom, file, memory, type StoreRef, zero } from 'pagefault/stores';
import { encodeWorkingSet, toPages } from '#dist/pager/working-set/index.js';
import { patternByte } from '../fixtures/pattern.js';
import { openFds, until } from '../helpers/descriptors.js';
import { runNode } from '../helpers/run.js';
import { backends, knownStore, onEachBackend, patternFile, patternModule, temporaryPath } from '../helpers/stores.js';

const PAGE = 4096;
const PAGES = 600;

/** Touches pages in this order, and checks what they hold. */
function touch(segment: Segment, pages: Iterable<number>, byte: (offset: number) => number = patternByte): void {
  const bytes = segment.view(Uint8Array);
  for (const page of pages) assert.equal(bytes[page * PAGE + 5], byte(page * PAGE + 5), `page ${page}`);
}

/** One run of a program. */
async function run(
  store: StoreRef,
  options: MapOptions,
  body: (segment: Segment) => void | Promise<void>,
): Promise<void> {
  const segment = await map(store, { readahead: 0, ...options });
  try {
    await body(segment);
  } finally {
    await segment.close();
  }
}

async function recorded(path: string): Promise<number[]> {
  return [...toPages((await readWorkingSet(path)).runs).pages];
}

/** The warnings of what is done meanwhile. */
async function warnings(body: () => Promise<void>): Promise<string[]> {
  const told: string[] = [];
  const listen = (warning: Error): void => void told.push(`${(warning as { code?: string }).code}: ${warning.message}`);
  process.on('warning', listen);
  try {
    await body();
    await new Promise((resolve) => setImmediate(resolve));
    return told;
  } finally {
    process.off('warning', listen);
  }
}

onEachBackend('the time of each first touch is recorded', async (backend) => {
  const workingSet = temporaryPath();
  let elapsedMs = 0;
  await run(file(patternFile(PAGES * PAGE)), { backend, workingSet }, async (segment) => {
    const begun = performance.now();
    touch(segment, [500]);
    await sleep(50);
    touch(segment, [3]);
    elapsedMs = performance.now() - begun;
    await sleep(50);
    touch(segment, [500, 3]); // no first ones
  });
  const { runs } = await readWorkingSet(workingSet);
  assert.deepEqual([...runs.first], [500, 3]);
  const [first = Number.NaN, second = Number.NaN] = runs.atUs;
  assert.ok(first >= 0 && second - first >= 45_000, `${first} and ${second} µs`);
  assert.ok(second - first <= elapsedMs * 1000 + 1000, `${second - first} µs of ${elapsedMs} ms`);
});

for (const kind of ['file', 'memory', 'zero', 'custom sync', 'custom async'] as const) {
  onEachBackend(`what one run touched is there before the next one touches it, store ${kind}`, async (backend) => {
    const { ref, byte } = knownStore(kind, PAGES * PAGE - 100);
    const workingSet = temporaryPath();
    const pages = [500, 3, 501, 4, 5, 599, 0];
    await run(ref, { backend, workingSet }, (segment) => touch(segment, pages, byte));
    assert.deepEqual(await recorded(workingSet), pages);
    const before = openFds();
    await run(ref, { backend, workingSet }, async (segment) => {
      assert.deepEqual(await segment.workingSet?.loadedAhead, { wanted: 7, reached: 7, error: undefined });
      assert.equal(segment.workingSet?.distrusted, undefined);
      assert.equal(segment.stats().loads, 7);
      touch(segment, pages, byte);
      assert.equal(segment.stats().faults, 0);
      touch(segment, [77], byte);
      assert.equal(segment.stats().loads, 8);
    });
    const set = await readWorkingSet(workingSet);
    assert.equal(set.recordings, 2);
    assert.deepEqual([...toPages(set.runs).pages].sort(order), [0, 3, 4, 5, 77, 500, 501, 599]);
    if (!kind.startsWith('custom')) assert.ok(openFds() <= before); // fewer: what an earlier test left ends by and by
  });
}

function order(a: number, b: number): number {
  return a - b;
}

onEachBackend(
  'neighbours come in one read of the store, whatever the order in which they were touched',
  async (backend) => {
    const store = file(patternFile(PAGES * PAGE));
    const workingSet = temporaryPath();
    const pages = Array.from({ length: 60 }, (_, i) => 100 + ((i * 7) % 60));
    await run(store, { backend, workingSet }, (segment) => touch(segment, pages));
    await run(store, { backend, workingSet }, async (segment) => {
      await segment.workingSet?.loadedAhead;
      const { loads, storeReads, bytesRead } = segment.stats();
      assert.deepEqual({ loads, storeReads, bytesRead }, { loads: 60, storeReads: 1, bytesRead: 60 * PAGE });
    });
  },
);

test('a working set of which 85 % are stable saves six of seven faults, and nothing stable faults again', async () => {
  const store = file(patternFile(8000 * PAGE));
  const workingSet = temporaryPath();
  const stable = Array.from({ length: 850 }, (_, i) => (i * 4799) % 4000);
  const changing = (runNumber: number): number[] =>
    Array.from({ length: 150 }, (_, i) => 4000 + (((i + 150 * runNumber) * 3571) % 4000));
  for (let n = 0; n < 4; n++) {
    await run(store, { workingSet }, async (segment) => {
      await segment.workingSet?.loadedAhead;
      const pages = [...stable, ...changing(n)];
      const before = segment.stats().faults;
      touch(segment, stable);
      if (n > 0) assert.equal(segment.stats().faults, before);
      touch(segment, changing(n));
      if (n > 0) assert.ok(segment.stats().faults - before <= pages.length / 6, `${segment.stats().faults - before}`);
    });
  }
});

test('what was seen in one run of three is not loaded ahead', async () => {
  const store = file(patternFile(PAGES * PAGE));
  const workingSet = temporaryPath();
  for (const page of [10, 20, 30]) {
    await run(store, { workingSet: { record: workingSet } }, (segment) => touch(segment, [1, 2, page]));
  }
  await run(store, { workingSet: { replay: workingSet } }, async (segment) => {
    assert.deepEqual(await segment.workingSet?.loadedAhead, { wanted: 2, reached: 2, error: undefined });
    touch(segment, [3]);
  });
  assert.equal((await readWorkingSet(workingSet)).recordings, 3);
});

test('however many runs are recorded, each counts, and what they need no more is left out in time', async () => {
  const RUNS = 40;
  const store = file(patternFile(PAGES * PAGE));
  const record = temporaryPath();
  /** What a run touches: pages that all need, that every other one needs, that only the first or the last half needs, and one of its own. */
  const touched = (i: number): number[] => [1, 2, ...(i % 2 === 0 ? [50] : []), i < RUNS / 2 ? 60 : 70, 100 + 2 * i];
  const replayed = async (path: string): Promise<number[]> => {
    const there: number[] = [];
    await run(store, { workingSet: { replay: path } }, async (segment) => {
      await segment.workingSet?.loadedAhead;
      for (let page = 0; page < PAGES; page++) {
        const { faults } = segment.stats();
        touch(segment, [page]);
        if (segment.stats().faults === faults) there.push(page);
      }
    });
    return there;
  };
  for (let i = 0; i < RUNS; i++) {
    await run(store, { workingSet: { record } }, (segment) => touch(segment, touched(i)));
    if (i === RUNS / 2 - 1) assert.deepEqual(await replayed(record), [1, 2, 50, 60]);
  }
  const set = await readWorkingSet(record);
  assert.deepEqual([set.recordings, set.dropped], [RUNS, 0]);
  const { pages, seen } = toPages(set.runs);
  const counts = new Map(Array.from(pages, (page, i) => [page, seen[i]]));
  assert.deepEqual(
    [1, 2, 50, 60, 70].map((page) => counts.get(page)),
    [RUNS, RUNS, ...Array(3).fill(RUNS / 2)],
  );
  assert.equal(counts.size, 5 + RUNS);
  for (let i = 0; i < RUNS; i++) assert.equal(counts.get(100 + 2 * i), 1);
  await run(store, { workingSet: { record } }, (segment) => touch(segment, [1, 2, 70]));
  assert.deepEqual(await replayed(record), [1, 2, 70]); // 50 and 60 were in 20 of 41
});

test('a cap bounds what is recorded and what is loaded ahead', async () => {
  const store = file(patternFile(PAGES * PAGE));
  const record = temporaryPath();
  await run(store, { workingSet: { record, cap: 5 * PAGE } }, (segment) => touch(segment, [9, 8, 7, 6, 5, 4, 3]));
  assert.deepEqual(await recorded(record), [9, 8, 7, 6, 5]);
  await run(store, { workingSet: { replay: record, cap: '8KiB' } }, async (segment) => {
    assert.deepEqual(await segment.workingSet?.loadedAhead, { wanted: 2, reached: 2, error: undefined });
    touch(segment, [9, 8]);
    assert.equal(segment.stats().faults, 0);
  });
});

onEachBackend('nothing is evicted for what is loaded ahead', async (backend) => {
  const store = file(patternFile(2000 * PAGE));
  const workingSet = temporaryPath();
  const all = Array.from({ length: 2000 }, (_, i) => i);
  await run(store, { backend, workingSet }, (segment) => touch(segment, all));
  await run(store, { backend, workingSet, resident: '2MiB' }, async (segment) => {
    const { wanted = 0, reached = 0, error } = (await segment.workingSet?.loadedAhead) ?? {};
    assert.equal(error, undefined);
    assert.equal(wanted, 2000);
    assert.ok(reached > 100 && reached <= 512, `${reached}`);
    assert.equal(segment.stats().evictions, 0);
    touch(segment, all);
  });
  assert.equal((await recorded(workingSet)).length, 2000);
});

/** A segment over a store that never answers reads ahead, of which the first `pages` pages are to be loaded ahead. */
async function waitsAhead(
  backend: Backend,
  concurrency: number,
  pages: number,
  body: (segment: Segment, begun: () => number) => Promise<void>,
): Promise<void> {
  const ahead = new SharedArrayBuffer(4);
  const byteLength = 5000 * PAGE;
  const store = custom(new URL('../fixtures/demand-only.js', import.meta.url), { byteLength, ahead, concurrency });
  const record = temporaryPath();
  const first = Array.from({ length: pages }, (_, i) => i);
  await run(custom(patternModule, { byteLength }), { workingSet: { record } }, (segment) => touch(segment, first));
  const { identity } = await identityOf(store);
  writeFileSync(record, encodeWorkingSet({ ...(await readWorkingSet(record)), identity }));
  await run(store, { backend, workingSet: { replay: record } }, async (segment) => {
    const begun = (): number => Atomics.load(new Int32Array(ahead), 0);
    await until(() => begun() > 0, 20_000);
    await body(segment, begun);
    const closed = segment.close();
    const { reached = -1, error } = (await segment.workingSet?.loadedAhead) ?? {};
    assert.ok(reached > 0 && reached < pages, `${reached}`);
    assert.equal((error as { code?: string } | undefined)?.code, 'ERR_PAGEFAULT_CLOSED');
    await closed;
  });
}

onEachBackend('what is touched does not wait for what is loaded ahead', async (backend) => {
  await waitsAhead(backend, 128, 900, async (segment) => {
    touch(
      segment,
      Array.from({ length: 300 }, (_, i) => 1000 + 13 * i),
    );
    assert.equal(segment.stats().loads, 300);
  });
});

/** Of eight places six are for what is loaded ahead. The orders for the pages behind those six wait, and the store would never get to them. */
onEachBackend('what is touched while it waits to be loaded ahead waits no longer', async (backend) => {
  await waitsAhead(backend, 8, 900, async (segment, begun) => {
    await until(() => begun() === 6, 20_000);
    const pages = [40, 7, 39, 8, 20, 6, 41];
    touch(segment, pages);
    const { loads, readaheadPages, faults } = segment.stats();
    assert.deepEqual([loads, faults], [pages.length, pages.length]);
    assert.ok(readaheadPages > 0, 'they had been asked for');
    assert.equal(begun(), 6);
  });
});

/** What a run of this store is recorded as. */
async function identityOf(store: StoreRef): Promise<{ identity: string }> {
  const record = temporaryPath();
  await run(store, { workingSet: { record } }, () => {});
  return await readWorkingSet(record);
}

test('a working set of a file that was changed since is not used, and a warning says so once', async () => {
  const path = patternFile(PAGES * PAGE);
  const workingSet = temporaryPath();
  await run(file(path), { workingSet }, (segment) => touch(segment, [1, 2, 3]));
  utimesSync(path, 1, 1);
  const told = await warnings(() =>
    run(file(path), { workingSet, name: 'changed' }, async (segment) => {
      assert.equal(segment.workingSet?.distrusted?.code, 'ERR_PAGEFAULT_WORKING_SET_FOREIGN');
      assert.deepEqual(await segment.workingSet?.loadedAhead, { wanted: 0, reached: 0, error: undefined });
      assert.equal(segment.stats().loads, 0);
      touch(segment, [8]);
    }),
  );
  assert.equal(told.length, 1);
  assert.match(
    told[0] ?? '',
    /^ERR_PAGEFAULT_WORKING_SET_FOREIGN: segment "changed": the working set \S+ is not used: it was recorded of another snapshot \(/,
  );
  assert.deepEqual(await recorded(workingSet), [8]);
});

const OTHERS: [string, (path: string) => StoreRef, MapOptions][] = [
  ['another file', () => file(patternFile(PAGES * PAGE)), {}],
  ['another part of the file', (path) => file(path, { offset: PAGE }), { byteLength: 500 * PAGE }],
  ['another part of the store', (path) => file(path), { offset: PAGE, byteLength: 500 * PAGE }],
  ['another length', (path) => file(path), { byteLength: 400 * PAGE }],
  ['pages of another size', (path) => file(path), { byteLength: 500 * PAGE, pageSize: 8192 }],
  ['a store of another kind', () => zero(500 * PAGE), {}],
  ['other bytes', () => memory(new Uint8Array(500 * PAGE)), {}],
];

for (const [what, store, options] of OTHERS) {
  test(`a working set is not used with ${what}`, async () => {
    const path = patternFile(PAGES * PAGE);
    const record = temporaryPath();
    await run(file(path), { byteLength: 500 * PAGE, workingSet: { record } }, (segment) => touch(segment, [1]));
    const [told = ''] = await warnings(() =>
      run(store(path), { ...options, workingSet: { replay: record } }, (segment) => {
        assert.equal(segment.workingSet?.distrusted?.code, 'ERR_PAGEFAULT_WORKING_SET_FOREIGN');
      }),
    );
    assert.match(told, /is not used: it was recorded /);
    assert.deepEqual(await recorded(record), [1]);
  });
}

test('a working set that is cut off, or has pages out of range, is not used, and is recorded anew', async () => {
  const store = file(patternFile(PAGES * PAGE));
  const workingSet = temporaryPath();
  const spoil: [() => Promise<void>, RegExp][] = [
    [async () => truncateSync(workingSet, 150), /damaged: it is cut off: it has 150 of 152 bytes$/],
    [
      async () => {
        const set = await readWorkingSet(workingSet);
        writeFileSync(workingSet, encodeWorkingSet({ ...set, runs: { ...set.runs, first: Uint32Array.of(PAGES) } }));
      },
      /damaged: page 600 is out of range: the snapshot has 600 pages$/,
    ],
  ];
  for (const [act, sentence] of spoil) {
    await run(store, { workingSet }, (segment) => touch(segment, [7]));
    await act();
    const before = openFds();
    const told = await warnings(() => run(store, { workingSet }, (segment) => touch(segment, [7])));
    assert.equal(told.length, 1);
    assert.match(told[0] ?? '', /^ERR_PAGEFAULT_WORKING_SET_DAMAGED: segment /);
    assert.match(told[0] ?? '', sentence);
    assert.equal((await readWorkingSet(workingSet)).recordings, 1);
    assert.ok(openFds() <= before); // fewer: what an earlier test left ends by and by
  }
});

test('a file that is something else, or is missing, is refused before anything is mapped', async () => {
  const store = file(patternFile(PAGES * PAGE));
  const letter = temporaryPath();
  const missing = temporaryPath();
  writeFileSync(letter, 'a letter');
  const before = openFds();
  const cases: [NonNullable<MapOptions['workingSet']>, RegExp][] = [
    [letter, /^\S+ is not a working set$/],
    [{ record: letter }, /^\S+ is not a working set$/],
    [{ replay: letter, record: missing }, /^\S+ is not a working set$/],
    [{ replay: missing }, /^the working set \S+ cannot be read: there is no such file or directory \(ENOENT\)$/],
    [{ replay: `${letter}/ws` }, /^the working set \S+ cannot be read: ENOTDIR/],
    [{ record: `${letter}/ws` }, /^the working set \S+ cannot be written: ENOTDIR/],
    [
      { record: `${missing}/ws` },
      /^the working set \S+ cannot be written: there is no such file or directory \(ENOENT\)$/,
    ],
  ];
  for (const [workingSet, message] of cases) {
    await assert.rejects(
      run(store, { workingSet }, () => {}),
      { code: 'ERR_PAGEFAULT_WORKING_SET', message },
    );
  }
  assert.equal(readFileSync(letter, 'utf8'), 'a letter');
  assert.ok(!existsSync(missing));
  assert.ok(openFds() <= before); // fewer: what an earlier test left ends by and by
});

test('an option that is wrong is one sentence', async () => {
  const cases: [unknown, RegExp][] = [
    [7, /workingSet: the options must be an object, not 7$/],
    ['', /workingSet must be the path of a file, not ''$/],
    ['a\0b', /workingSet must be the path of a file/],
    [{}, /workingSet must have a file to record or to replay$/],
    [{ cap: 5 }, /workingSet must have a file to record or to replay$/],
    [{ rekord: 'x' }, /workingSet: there is no option 'rekord'; did you mean 'record'\?$/],
    [{ record: 5 }, /workingSet\.record must be the path of a file, not 5$/],
    [{ replay: true }, /workingSet\.replay must be the path of a file, not true$/],
    [{ record: 'x', cap: 0 }, /workingSet\.cap must be at least a page, not 0$/],
    [{ record: 'x', cap: 'much' }, /workingSet\.cap must be a number with KiB, MiB or GiB/],
  ];
  for (const [workingSet, message] of cases) {
    await assert.rejects(map(zero(PAGE), { workingSet } as MapOptions), { message });
  }
  assert.ok(!existsSync('x'));
});

test('where the file cannot be written, close says so, and the segment is closed', async () => {
  const store = file(patternFile(PAGES * PAGE));
  const before = openFds();
  const folder = temporaryPath();
  mkdirSync(folder);
  const segment = await map(store, { workingSet: { record: `${folder}/ws` } });
  touch(segment, [1]);
  rmdirSync(folder);
  await assert.rejects(segment.close(), {
    code: 'ERR_PAGEFAULT_WORKING_SET',
    message: /^the working set \S+ cannot be written: there is no such file or directory \(ENOENT\)$/,
  });
  assert.throws(() => segment.stats(), { code: 'ERR_PAGEFAULT_CLOSED' });
  assert.ok(openFds() <= before); // fewer: what an earlier test left ends by and by
});

test('save ends the recording: what is needed to start is one working set', async () => {
  const store = file(patternFile(PAGES * PAGE));
  const workingSet = temporaryPath();
  await run(store, { workingSet }, async (segment) => {
    touch(segment, [4, 2]);
    const set = await segment.workingSet?.save();
    assert.equal(set?.recordings, 1);
    touch(segment, [300]);
    assert.equal(await segment.workingSet?.save(), set);
  });
  assert.deepEqual(await recorded(workingSet), [4, 2]);
});

for (const backend of backends satisfies readonly Backend[]) {
  test(`a segment that is written to keeps its working set [${backend}]`, async () => {
    const path = temporaryPath();
    const workingSet = temporaryPath();
    const store = file(path, { create: PAGES * PAGE });
    for (let n = 0; n < 3; n++) {
      await run(store, { backend, workingSet, writable: true }, async (segment) => {
        assert.equal(segment.workingSet?.distrusted, undefined);
        assert.equal((await segment.workingSet?.loadedAhead)?.reached, n === 0 ? 0 : 2);
        const bytes = segment.view(Uint8Array);
        for (const page of [50, 20]) bytes[page * PAGE] = (bytes[page * PAGE] ?? 0) + 1;
      });
    }
    const bytes = readFileSync(path);
    assert.deepEqual([bytes[50 * PAGE], bytes[20 * PAGE]], [3, 3]);
    assert.deepEqual(await recorded(workingSet), [50, 20]);
  });
}

test('what other threads touch is recorded, too', async () => {
  const store = file(patternFile(PAGES * PAGE));
  const workingSet = temporaryPath();
  await run(store, { workingSet, shared: true }, async (segment) => {
    touch(segment, [9]);
    const program = `
      const { parentPort, workerData } = require('node:worker_threads');
      import('pagefault').then(async ({ open }) => {
        const segment = await open(workerData);
        const byte = segment.view(Uint8Array)[30 * ${PAGE}];
        await segment.close();
        parentPort.postMessage(byte);
      });`;
    const worker = new Worker(program, { eval: true, workerData: segment.handle });
    assert.deepEqual(await once(worker, 'message'), [patternByte(30 * PAGE)]);
    await once(worker, 'exit');
    touch(segment, [5]);
  });
  assert.deepEqual(await recorded(workingSet), [9, 30, 5]);
});

test('segments of one store that are closed together are all recorded', async () => {
  const store = file(patternFile(PAGES * PAGE));
  const workingSet = temporaryPath();
  const segments = await Promise.all([1, 2, 3, 4].map(() => map(store, { workingSet, readahead: 0 })));
  for (const [i, segment] of segments.entries()) touch(segment, [0, 10 + i]);
  await Promise.all(segments.map((segment) => segment.close()));
  const set = await readWorkingSet(workingSet);
  assert.equal(set.recordings, 4);
  assert.deepEqual((await recorded(workingSet)).sort(order), [0, 10, 11, 12, 13]);
});

for (const [how, code] of [
  ['end', 0],
  ['exit', 7],
  ['terminate', 0],
] as const) {
  test(`loading ahead holds up nobody who leaves: ${how}`, async () => {
    const script = fileURLToPath(new URL('../fixtures/replaying.js', import.meta.url));
    const ran = await runNode(script, [how, temporaryPath()], { timeoutMs: 60_000 });
    assert.equal(ran.code, code, `${ran.signal} ${ran.stderr}`);
    assert.equal(ran.stderr, '');
    assert.match(ran.stdout, how === 'terminate' ? /terminated/ : /^\d+\n$/);
  });
}
