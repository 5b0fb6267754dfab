/** Numbers as text. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatBytes, formatCount, formatDuration, formatQuantity, formatShort } from 'pagefault/observe';

test('bytes are shown in the largest unit that fits, with three digits', () => {
  const cases: [number, string][] = [
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1 KiB'],
    [1536, '1.5 KiB'],
    [67_108_864, '64 MiB'],
    [2 ** 36, '64 GiB'],
    [123_456_789, '118 MiB'],
    [-4096, '-4 KiB'],
    [2 ** 60, '1024 PiB'],
  ];
  for (const [bytes, text] of cases) assert.equal(formatBytes(bytes), text);
});

test('durations go from nanoseconds to seconds', () => {
  const cases: [number, string][] = [
    [0, '0 ns'],
    [999, '999 ns'],
    [2450, '2.45 µs'],
    [1e6, '1 ms'],
    [1.5e9, '1.5 s'],
    [120e9, '120 s'],
  ];
  for (const [ns, text] of cases) assert.equal(formatDuration(ns), text);
});

test('counts have separators and nouns a plural', () => {
  assert.equal(formatCount(1_234_567), '1,234,567');
  assert.equal(formatCount(999), '999');
  assert.equal(formatQuantity(1, 'page'), '1 page');
  assert.equal(formatQuantity(0, 'page'), '0 pages');
  assert.equal(formatQuantity(20_000, 'page'), '20,000 pages');
});

test('short counts take four places at most', () => {
  const cases: [number, string][] = [
    [0, '0'],
    [0.4, '0'],
    [999, '999'],
    [999.6, '1k'],
    [1000, '1k'],
    [1249, '1.2k'],
    [9949, '9.9k'],
    [9951, '10k'],
    [123_456, '123k'],
    [999_499, '999k'],
    [999_500, '1M'],
    [1_250_000, '1.3M'],
    [2 ** 40, '1.1T'],
  ];
  for (const [count, text] of cases) {
    assert.equal(formatShort(count), text, String(count));
    assert.ok(text.length <= 4);
  }
});
