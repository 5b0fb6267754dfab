import assert from 'node:assert/strict';
import { test } from 'node:test';
import { formatSize, parseSize } from '#dist/options/sizes.js';

test('a size is a number of bytes or a number with KiB, MiB or GiB', () => {
  const sizes: [number | string, number][] = [
    [0, 0],
    [4096, 4096],
    ['4096', 4096],
    ['64MiB', 64 * 2 ** 20],
    ['64 MiB', 64 * 2 ** 20],
    ['1.5GiB', 1.5 * 2 ** 30],
    ['0.5KiB', 512],
    [2 ** 53 - 1, 2 ** 53 - 1],
  ];
  for (const [size, bytes] of sizes) assert.equal(parseSize('resident', size), bytes, String(size));
});

test('what is no size is a TypeError or RangeError that names the option and shows the form', () => {
  const wrong: [unknown, string, RegExp][] = [
    ['64MB', 'TypeError', /^resident must be a number with KiB, MiB or GiB, such as '64MiB', not '64MB'$/],
    ['', 'TypeError', /KiB/],
    ['-1', 'TypeError', /KiB/],
    ['1e3', 'TypeError', /KiB/],
    ['toString', 'TypeError', /KiB/],
    ['1constructor', 'TypeError', /KiB/],
    [true, 'TypeError', /not true/],
    [null, 'TypeError', /not null/],
    [{}, 'TypeError', /not an object/],
    [-1, 'RangeError', /not -1$/],
    [1.5, 'RangeError', /not 1.5$/],
    [Number.NaN, 'RangeError', /not NaN$/],
    [2 ** 53, 'RangeError', /2\^53 - 1/],
    ['0.3KiB', 'RangeError', /whole number of bytes/],
    ['99999999GiB', 'RangeError', /below 2\^53/],
  ];
  for (const [size, name, message] of wrong) {
    assert.throws(() => parseSize('resident', size), { name, message }, String(size));
    assert.throws(() => parseSize('resident', size), /^\w+: resident must/);
  }
});

test('sizes are written with the largest unit that divides them', () => {
  assert.equal(formatSize(1), '1 byte');
  assert.equal(formatSize(4095), '4095 bytes');
  assert.equal(formatSize(4096), '4 KiB');
  assert.equal(formatSize(3 * 2 ** 30), '3 GiB');
});
