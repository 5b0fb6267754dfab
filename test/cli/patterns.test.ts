/** The orders in which `pagefault map` touches pages. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { randomNumbers, touchedPages } from '#dist/cli/patterns.js';

test('the same seed gives the same numbers, from 0 to below 1', () => {
  const first = randomNumbers(7);
  const second = randomNumbers(7);
  for (let i = 0; i < 1000; i++) {
    const number = first();
    assert.equal(number, second());
    assert.ok(number >= 0 && number < 1);
  }
});

test('every page number is below the page count, also for one, two and three pages', () => {
  for (const pattern of ['random', 'zipf'] as const) {
    for (const pageCount of [1, 2, 3, 1000]) {
      const pages = [...touchedPages(pattern, pageCount, 500)];
      assert.equal(pages.length, 500);
      for (const page of pages) assert.ok(Number.isInteger(page) && page >= 0 && page < pageCount, `${page}`);
      assert.equal(new Set(pages).size > Math.min(pageCount, 100) / 2, true);
    }
  }
});

test('zipf gives a tenth of the pages most of the touches, random does not', () => {
  const shareOfTop = (pattern: 'random' | 'zipf'): number => {
    const counts = new Map<number, number>();
    for (const page of touchedPages(pattern, 1000, 50_000)) counts.set(page, (counts.get(page) ?? 0) + 1);
    const sorted = [...counts.values()].sort((a, b) => b - a);
    return sorted.slice(0, 100).reduce((sum, count) => sum + count, 0) / 50_000;
  };
  assert.ok(shareOfTop('zipf') > 0.6, `${shareOfTop('zipf')}`);
  assert.ok(shareOfTop('random') < 0.2, `${shareOfTop('random')}`);
});
