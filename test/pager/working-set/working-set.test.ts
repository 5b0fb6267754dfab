/** Working sets as data: runs, unions, what is loaded ahead, whose they are. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  distrust,
  mergeWorkingSets,
  pairsOf,
  recordWorkingSet,
  replayPages,
  toPages,
  type WorkingSet,
} from '#dist/pager/working-set/index.js';
import { SNAPSHOT, setOf, touchedPages } from '../../helpers/working-sets.js';

function pagesOf(set: WorkingSet): number[] {
  return [...toPages(set.runs).pages];
}

test('pages are kept in order of first touch, neighbours in one run', () => {
  const set = setOf([7, 8, 9, 3, 2, 500]);
  assert.deepEqual([...set.runs.first], [7, 3, 2, 500]);
  assert.deepEqual([...set.runs.count], [3, 1, 1, 1]);
  assert.deepEqual([...set.runs.atUs], [0, 3000, 4000, 5000]);
  assert.deepEqual([...set.runs.spanUs], [2000, 0, 0, 0]);
  assert.deepEqual(pagesOf(set), [7, 8, 9, 3, 2, 500]);
  assert.deepEqual([...toPages(set.runs).atUs], [0, 1000, 2000, 3000, 4000, 5000]);
  assert.equal(set.recordings, 1);
  assert.equal(set.dropped, 0);
});

test('a run that touches nothing has an empty working set', () => {
  assert.deepEqual(pagesOf(setOf([])), []);
  assert.deepEqual([...replayPages(setOf([]))], []);
});

test('a page counts once, at its first touch, and only if the snapshot has it', () => {
  const set = recordWorkingSet(SNAPSHOT, {
    pages: Uint32Array.of(7, 1000, 3, 7, 4_294_967_295, 3),
    atUs: Float64Array.of(-5, 10, 20, 30, 40, Number.NaN),
  });
  assert.deepEqual(pagesOf(set), [7, 3]);
  assert.deepEqual([...set.runs.atUs], [0, 20]);
  assert.equal(set.dropped, 0);
});

test('a cap keeps what was touched first, and says how much it left out', () => {
  const set = recordWorkingSet(SNAPSHOT, touchedPages([9, 5, 1, 2]), 3 * 4096 - 1);
  assert.deepEqual(pagesOf(set), [9, 5]);
  assert.equal(set.dropped, 2);
});

test('a union has each page once, at its earliest time, with how often it was seen', () => {
  const union = mergeWorkingSets([setOf([1, 2, 30]), setOf([30, 2, 4], 500), setOf([2], 5)]);
  assert.equal(union.recordings, 3);
  const { pages, atUs, seen } = toPages(union.runs);
  assert.deepEqual([...pages], [1, 2, 30, 4]);
  assert.deepEqual([...atUs], [0, 5, 500, 2500]);
  assert.deepEqual([...seen], [1, 3, 2, 1]);
});

test('a union of unions counts as if all runs had been united at once', () => {
  const runs = [setOf([1, 2, 3]), setOf([3, 9]), setOf([9, 1, 7]), setOf([8])];
  const [a, b, c, d] = runs as [WorkingSet, WorkingSet, WorkingSet, WorkingSet];
  const stepwise = mergeWorkingSets([mergeWorkingSets([mergeWorkingSets([a, b]), c]), d]);
  assert.deepEqual(stepwise, mergeWorkingSets(runs));
});

test('a capped union keeps what was seen most often, and of that what was touched first', () => {
  const union = mergeWorkingSets([setOf([1, 2, 3, 4]), setOf([4, 3, 20, 21])], { cap: 3 * 4096 });
  assert.deepEqual(pagesOf(union), [1, 4, 3]);
  assert.equal(union.dropped, 3);
});

test('working sets of two snapshots are not united', () => {
  const other = recordWorkingSet({ ...SNAPSHOT, identity: 'cd'.repeat(32) }, touchedPages([1]));
  assert.throws(() => mergeWorkingSets([setOf([1]), other]), { code: 'ERR_PAGEFAULT_WORKING_SET_FOREIGN' });
  assert.throws(() => mergeWorkingSets([]), { name: 'TypeError' });
});

test('a working set is trusted with its own snapshot only, and the reason is one sentence', () => {
  const set = { ...setOf([1, 2]), path: 'vm.ws' };
  assert.equal(distrust(set, SNAPSHOT), undefined);
  const cases: [Partial<typeof SNAPSHOT>, RegExp][] = [
    [
      { identity: 'cd'.repeat(32) },
      /recorded of another snapshot \(abababababababab…, and this is cdcdcdcdcdcdcdcd…\)/,
    ],
    [{ byteLength: 4096 }, /recorded of another snapshot, of 4095995 bytes; this one has 4 KiB$/],
    [{ pageSize: 2 ** 21 }, /recorded with pages of 4 KiB, not 2 MiB$/],
  ];
  for (const [change, sentence] of cases) {
    const reason = distrust(set, { ...SNAPSHOT, ...change });
    assert.match(reason?.message ?? '', /^the working set vm\.ws is not used: /);
    assert.match(reason?.message ?? '', sentence);
    assert.equal(reason?.code, 'ERR_PAGEFAULT_WORKING_SET_FOREIGN');
    assert.equal(reason?.path, 'vm.ws');
  }
});

test('what is loaded ahead comes in order of first touch, and within a group in order of the snapshot', () => {
  const early = Array.from({ length: 64 }, (_, i) => 900 - i);
  const late = Array.from({ length: 128 }, (_, i) => 300 - i);
  const pages = replayPages(setOf([...early, ...late]));
  assert.deepEqual([...pages], [...early.toReversed(), ...late.toReversed()]);
  assert.deepEqual([...pairsOf(pages)], [837, 64, 173, 128]);
});

test('what was seen in fewer than half of the recordings is not loaded ahead, unless that is asked for', () => {
  const union = mergeWorkingSets([setOf([1, 2, 9]), setOf([1, 2]), setOf([2, 5])]);
  assert.deepEqual([...replayPages(union)], [1, 2]);
  assert.deepEqual([...replayPages(union, { share: 0 })].sort(), [1, 2, 5, 9]);
  assert.deepEqual([...replayPages(union, { share: 1 })], [2]);
});

test('a cap on what is loaded ahead takes what was touched first', () => {
  assert.deepEqual([...replayPages(setOf([9, 5, 1, 2]), { cap: 2 * 4096 })], [5, 9]);
  assert.deepEqual([...replayPages(setOf([9, 5, 1, 2]), { cap: 0 })], []);
});
