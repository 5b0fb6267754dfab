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
  const wrong: [bigint, number, string][] = [
    [0x10000n, 0, 'ZERO_SIZE'],
    [0x10000n, -page, 'OUT_OF_RANGE'],
    [0x10000n, page + 1, 'SIZE_NOT_ALIGNED'],
    [0x10000n, Number.NaN, 'OUT_OF_RANGE'],
    [0x10000n, 2 ** 53, 'OUT_OF_RANGE'],
    [1n, page, 'BASE_NOT_ALIGNED'],
    [BigInt(-page), page, 'OUT_OF_RANGE'],
    [(1n << 64n) - BigInt(page), 2 * page, 'OUT_OF_RANGE'],
    [1n << 64n, page, 'OUT_OF_RANGE'],
  ];
  for (const [address, byteLength, code] of wrong) {
    assert.throws(() => checkRange('who()', { address, byteLength }), {
      name: 'RangeError',
      code: `ERR_PAGEFAULT_${code}`,
      message: /^who\(\): /,
    });
  }
});
