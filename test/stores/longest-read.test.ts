/** Stores that may be asked for several pages at once, where nobody waits for them. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { test } from 'node:test';
import { type MapOptions, map, type Segment } from 'pagefault';
import { GuestEngine, Snapshot } from 'pagefault/guests';
import { Mapping, PidFd, probe, Uffd } from 'pagefault/kernel';
import { custom } from 'pagefault/stores';
import { MERGING } from '../fixtures/merging.js';
import { patternByte } from '../fixtures/pattern.js';
import { until } from '../helpers/descriptors.js';
import { onEachBackend, temporaryPath } from '../helpers/stores.js';

const TIMEOUT = { timeout: 60_000 };
const PAGE = 4096;
const PAGES = 512;
const LENGTH = PAGES * PAGE - 100;
const RUN = 32 * PAGE;
const module = new URL('../fixtures/merging.js', import.meta.url);

function merging(longestRead?: number): { ref: ReturnType<typeof custom>; control: Int32Array } {
  const control = new SharedArrayBuffer(4 * MERGING.length);
  const options = { byteLength: LENGTH, control, ...(longestRead === undefined ? {} : { longestRead }) };
  return { ref: custom(module, options), control: new Int32Array(control) };
}

function verify(segment: Segment): void {
  const bytes = segment.view(Uint8Array);
  for (let at = 5; at < LENGTH; at += 1001) assert.equal(bytes[at], patternByte(at), `byte ${at}`);
  assert.equal(bytes.at(-1), patternByte(LENGTH - 1));
}

async function withSegment(
  ref: ReturnType<typeof custom>,
  options: MapOptions,
  body: (segment: Segment) => Promise<void>,
): Promise<void> {
  const segment = await map(ref, options);
  try {
    await body(segment);
  } finally {
    await segment.close();
  }
}

onEachBackend('a range that is loaded comes in few reads, as long as the store allows', async (backend) => {
  const { ref, control } = merging(RUN);
  await withSegment(ref, { backend, pageSize: PAGE }, async (segment) => {
    await segment.load();
    verify(segment);
    assert.equal(control[MERGING.longest], RUN);
    assert.ok((control[MERGING.reads] ?? 0) <= PAGES / 8, `${control[MERGING.reads]} reads`);
    const { storeReads, loads, bytesRead } = segment.stats();
    assert.deepEqual([storeReads, loads, bytesRead], [control[MERGING.reads], PAGES, LENGTH]);
  });
});

onEachBackend('a working set is loaded ahead in few reads, and what a thread waits for alone', async (backend) => {
  const { ref, control } = merging(RUN);
  const workingSet = temporaryPath();
  await withSegment(ref, { backend, workingSet, readahead: 0 }, async (segment) => verify(segment));
  assert.deepEqual([control[MERGING.longest], control[MERGING.ahead]], [PAGE, 0]);
  const before = control[MERGING.reads] ?? 0;
  await withSegment(ref, { backend, workingSet, readahead: 0 }, async (segment) => {
    assert.deepEqual(await segment.workingSet?.loadedAhead, { wanted: PAGES, reached: PAGES, error: undefined });
    verify(segment);
    assert.equal(segment.stats().faults, 0);
  });
  const reads = (control[MERGING.reads] ?? 0) - before;
  assert.ok(reads <= PAGES / 8, `${reads} reads`);
});

test('a store that does not say so is asked for a page at a time', TIMEOUT, async () => {
  const { ref, control } = merging();
  await withSegment(ref, {}, async (segment) => {
    await segment.load();
    verify(segment);
  });
  assert.deepEqual([control[MERGING.longest], control[MERGING.reads]], [PAGE, PAGES]);
});

test('what a thread waits for is answered though no read ahead ever is', TIMEOUT, async () => {
  const { ref, control } = merging(RUN);
  control[MERGING.answered] = PAGE;
  await withSegment(ref, { readahead: 0 }, async (segment) => {
    const abort = new AbortController();
    const held = segment.load(0, (PAGES / 2) * PAGE, { signal: abort.signal });
    await until(() => (control[MERGING.ahead] ?? 0) > 0);
    const at = (PAGES - 7) * PAGE;
    assert.equal(segment.view(Uint8Array)[at], patternByte(at));
    abort.abort();
    await assert.rejects(held);
  });
});

const withUffd = probe().userfaultfd.userModeOnly.available ? {} : { skip: 'userfaultfd is not for this user' };

test('a replay from a store loads ahead in merged reads', { ...TIMEOUT, ...withUffd }, async () => {
  const { ref, control } = merging(256 * 1024);
  const snapshot = await Snapshot.open(ref);
  const engine = new GuestEngine();
  const mapping = Mapping.anonymous(PAGES * PAGE);
  const uffd = Uffd.open({ userModeOnly: true });
  uffd.register(mapping, ['missing']);
  const child = spawn('sleep', ['60'], { stdio: 'ignore' }); // what is killed when a page cannot be had
  try {
    const regions = [{ address: mapping.address, byteLength: PAGES * PAGE, offset: 0 }];
    const pidfd = PidFd.open(child.pid ?? 0);
    const guest = engine.add({ uffd, pidfd, regions, pageSize: PAGE, snapshot, name: 'restored' });
    await guest.replay(Uint32Array.from({ length: PAGES }, (_, i) => i));
    assert.equal(guest.numbers().prefetched, PAGES);
    const reads = control[MERGING.reads] ?? 0;
    assert.ok(reads <= PAGES / 8, `${reads} reads`);
    assert.equal(control[MERGING.ahead], reads, 'none of them is one that somebody waits for');
    const bytes = new Uint8Array(mapping.buffer);
    for (let at = 5; at < LENGTH; at += 1001) assert.equal(bytes[at], patternByte(at), `byte ${at}`);
  } finally {
    await engine.close();
    await snapshot.close();
    child.kill('SIGKILL');
    mapping.unmap();
  }
});
