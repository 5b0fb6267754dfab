/** The page map as text. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countPages, type PageSource, plainTerminal, renderPageMap } from 'pagefault/observe';

const ABSENT = 0;
const PRESENT = 2;
const STAGED = 4;
const FAILED = 5;
const PINNED = 0x80;

function source(states: Uint8Array): PageSource {
  return {
    byteLength: states.length * 4096,
    pageSize: 4096,
    pages: (first, count) => states.slice(first, first + count),
  };
}

test('every page is counted once, whatever the number of cells', () => {
  const states = Uint8Array.from({ length: 1000 }, (_, i) => (i % 2 === 0 ? PRESENT : ABSENT));
  for (const cells of [1, 7, 64, 999, 1000, 5000]) {
    const counts = countPages(source(states), cells);
    assert.equal(counts.length, Math.min(cells, 1000));
    assert.equal(
      counts.reduce((sum, cell) => sum + cell.pages, 0),
      1000,
    );
    assert.equal(
      counts.reduce((sum, cell) => sum + cell.present, 0),
      500,
    );
  }
});

test('a map of millions of pages is read in blocks', () => {
  const longest: number[] = [];
  const large: PageSource = {
    byteLength: 2 ** 36,
    pageSize: 2 ** 16,
    pages: (_first, count) => {
      longest.push(count);
      return new Uint8Array(count).fill(PRESENT);
    },
  };
  const counts = countPages(large, 100);
  assert.equal(
    counts.reduce((sum, cell) => sum + cell.present, 0),
    2 ** 20,
  );
  assert.ok(Math.max(...longest) <= 65_536);
});

test('a cell shows what matters most in it', () => {
  const one = (...states: number[]): string => (renderPageMap(source(Uint8Array.from(states)))[0] ?? '').trimStart();
  assert.equal(one(ABSENT), '0 B ·');
  assert.equal(one(PRESENT), '0 B █');
  assert.equal(one(STAGED), '0 B s');
  assert.equal(one(PRESENT | PINNED), '0 B P');
  assert.equal(one(FAILED), '0 B x');
  assert.equal(one(ABSENT, PRESENT, FAILED), '0 B ·█x');
});

test('only an empty cell looks empty and only a full one looks full', () => {
  const states = new Uint8Array(8 * 70 * 100).fill(ABSENT);
  states[0] = PRESENT;
  states.fill(PRESENT, 100, 199);
  states.fill(PRESENT, 200, 300);
  const [line = ''] = renderPageMap(source(states), plainTerminal(80));
  assert.equal(line.slice(10, 14), '░▓█·');
});

test('lines stay within the terminal and begin with their offset', () => {
  const states = new Uint8Array(100_000).fill(PRESENT);
  for (const columns of [40, 80, 120]) {
    const lines = renderPageMap(source(states), plainTerminal(columns, false));
    for (const line of lines) assert.ok(line.length <= columns, line);
    assert.match(lines[0] ?? '', /^ {6}0 B #+$/);
    assert.match(lines[4] ?? '', /^ {2}195 MiB #+$/);
  }
});

test('the legend counts only what there is', () => {
  const states = Uint8Array.from([ABSENT, PRESENT, PRESENT, FAILED, PRESENT | PINNED]);
  const text = renderPageMap(source(states)).join('\n');
  assert.match(text, /1 absent/);
  assert.match(text, /3 in memory/);
  assert.match(text, /1 pinned/);
  assert.match(text, /1 failed/);
  assert.doesNotMatch(text, /staged/);
  assert.match(text, /one cell: 1 page of 4 KiB/);
});
