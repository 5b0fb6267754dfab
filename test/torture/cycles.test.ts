/** Many segments: a thousand one after the other leave nothing, ten thousand at once work. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { budget, map, type Segment } from 'pagefault';
import { custom, file, memory, type StoreRef, zero } from 'pagefault/stores';
import { native } from '#dist/native/load.js';
import { root } from '../helpers/run.js';
import { backends, onEachBackend, patternBytes, patternFile, patternModule } from '../helpers/stores.js';

const PAGE = 4096;
const path = patternFile(8 * PAGE);
const first = patternBytes(8 * PAGE);

interface Left {
  descriptors: number;
  threads: number;
  mappings: number;
  regions: number;
}

function left(): Left {
  const lines = readFileSync('/proc/self/maps', 'utf8').split('\n');
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    threads: readdirSync('/proc/self/task').length,
    mappings: lines.filter((line) => /pagefault|memfd:|churned/.test(line)).length,
    regions: native().census().regions,
  };
}

/** What is left once idle threads have ended (after 200 ms) and a Worker without a store (after 500). */
async function settled(): Promise<Left> {
  await sleep(800);
  return left();
}

/** Nothing is left that was not there before; a busy machine may need a moment for that. */
async function leavesNoMoreThan(before: Left): Promise<void> {
  const names = Object.keys(before) as (keyof Left)[];
  const grown = (now: Left): string[] => names.filter((name) => now[name] > before[name]);
  let now = left();
  for (let i = 0; grown(now).length > 0 && i < 100; i++) {
    await sleep(50);
    now = left();
  }
  assert.deepEqual(grown(now), [], `${JSON.stringify(before)} → ${JSON.stringify(now)}`);
}

const stores: [string, number, () => StoreRef][] = [
  ['file', 1000, () => file(path)],
  ['memory', 1000, () => memory(first)],
  ['zero', 1000, () => zero(8 * PAGE)],
  ['custom', 250, () => custom(patternModule, { byteLength: 8 * PAGE })],
];

for (const [kind, cycles, ref] of stores) {
  onEachBackend(`${cycles} cycles of opening, using and closing leave nothing (${kind})`, async (backend) => {
    const cycle = async (i: number): Promise<void> => {
      const segment = await map(ref(), { backend, resident: 4 * PAGE * (1 + (i % 3)), name: 'churned' });
      const bytes = segment.view(Uint8Array);
      const at = (i % 8) * PAGE;
      assert.equal(bytes[at], kind === 'zero' ? 0 : first[at]);
      if (i % 10 === 0) await segment.load();
      await segment.close();
    };
    for (let i = 0; i < 5; i++) await cycle(i);
    const before = await settled();
    for (let i = 0; i < cycles; i++) await cycle(i);
    await leavesNoMoreThan(before);
  });
}

onEachBackend('a thousand maps that fail leave nothing', async (backend) => {
  const missing: [StoreRef, object][] = [
    [file(`${path}-missing`), {}],
    [file('/'), {}],
    [file(path), { pageSize: 1000 }],
    [file(path), { resident: 1 }],
    [file(path), { byteLength: 9 * PAGE }],
    [memory(first), { offset: 9 * PAGE }],
    [custom(patternModule, { byteLength: -1 }), {}],
    [custom(new URL('./missing.js', import.meta.url)), {}],
  ];
  const fail = async (i: number): Promise<void> => {
    const [ref, options] = missing[i % missing.length] as [StoreRef, object];
    await assert.rejects(map(ref, { backend, ...options }));
  };
  for (let i = 0; i < missing.length; i++) await fail(i);
  const before = await settled();
  for (let i = 0; i < 1000; i++) await fail(i);
  await leavesNoMoreThan(before);
});

onEachBackend('a segment closed at once after a touch gives its memory back', async (backend) => {
  const shared = budget(64 * PAGE);
  for (let i = 0; i < 10; i++) {
    const segment = await map(custom(patternModule, { byteLength: 8 * PAGE, answer: 'async' }), {
      backend,
      resident: shared,
      readahead: 0,
    });
    assert.equal(segment.view(Uint8Array)[PAGE], first[PAGE]);
    await segment.close();
    for (let wait = 0; shared.used > 0 && wait < 2000; wait++) await sleep(10);
    assert.equal(shared.used, 0);
  }
  shared.close();
});

onEachBackend('a segment closed while it loads leaves the budget to the others at once', async (backend) => {
  const shared = budget(8 * PAGE);
  const bytes = patternBytes(64 * PAGE);
  for (let i = 0; i < 5; i++) {
    const options = { backend, resident: shared, faultTimeoutMs: 500 };
    const other = await map(memory(bytes), options);
    const closed = await map(memory(bytes), options);
    const loading = closed.load(0, 4 * PAGE).catch(() => {});
    closed.read(4 * PAGE, 16 * PAGE);
    await closed.close();
    // Nothing of the event loop has run since, and this thread waits for the room that the closed segment had.
    assert.deepEqual(other.read(0, bytes.length), bytes);
    await loading;
    await other.close();
  }
  shared.close();
});

onEachBackend('ten thousand segments are open at once, each is touched, and all are closed', async (backend) => {
  const count = 10_000;
  const shared = budget('64MiB');
  const segments: Segment[] = [];
  const before = native().census().regions;
  for (let i = 0; i < count; i++) {
    const ref = i % 2 === 0 ? memory(first.subarray(0, 2 * PAGE)) : zero(2 * PAGE);
    segments.push(await map(ref, i % 4 === 0 ? { backend, resident: shared } : { backend }));
  }
  assert.equal(native().census().regions, before + count);
  for (const [i, segment] of segments.entries()) {
    const at = i % (2 * PAGE);
    assert.equal(segment.view(Uint8Array)[at], i % 2 === 0 ? first[at] : 0, `segment ${i}`);
  }
  for (const segment of segments) await segment.close();
  assert.equal(shared.used, 0);
  shared.close();
  assert.equal(native().census().regions, before);
});

const collecting = `
import { setTimeout as sleep } from 'node:timers/promises';
import { map } from 'pagefault';
import { memory } from 'pagefault/stores';
const segment = await map(memory(new Uint8Array(new SharedArrayBuffer(1 << 24)).fill(7)), { backend: process.argv[1], readahead: 0 });
for (let i = 0; i < 5; i++) { gc(); await sleep(10); }
console.log(segment.view(Uint8Array)[9 << 20]);
`;

for (const backend of backends) {
  test(`shared bytes behind memory() stay as long as a segment reads them [${backend}]`, async () => {
    const args = ['--expose-gc', '--input-type=module', '-e', collecting, backend];
    const { stdout } = await promisify(execFile)(process.execPath, args, { cwd: root });
    assert.equal(stdout, '7\n');
  });
}
