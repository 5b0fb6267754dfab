import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkRange, pageSize } from '#dist/kernel/range.js';

const page = pageSize();

test('whole pages that end at 2^64 or before are a range', () => {
  checkRange('x', { address: 0n, byteLength: page });
  checkRange('x', { address: (1n << 64n) - BigInt(page), byteLength: page });
});

test('what is no range is refused in a sentence', () => {
  for (const range of [
    undefined,
    null,
    5,
    'x',
    {},
    { address: 0, byteLength: page },
    { address: 0n, byteLength: 4096n },
  ]) {
    assert.throws(() => checkRange('who()', range), { name: 'TypeError', message: /^who\(\): / });
  }
  const wrong: [bigint, number][] = [
    [0n, 0],
    [0n, -page],
    [0n, page + 1],
    [0n, Number.NaN],
    [0n, 2 ** 53],
    [1n, page],
    [BigInt(-page), page],
    [(1n << 64n) - BigInt(page), 2 * page],
    [1n << 64n, page],
  ];
  for (const [address, byteLength] of wrong) {
    assert.throws(() => checkRange('who()', { address, byteLength }), {
      name: 'RangeError',
      code: 'ERR_PAGEFAULT_OUT_OF_RANGE',
      message: /^who\(\): /,
    });
  }
});
