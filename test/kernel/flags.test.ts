import assert from 'node:assert/strict';
import { test } from 'node:test';
import { FlagSet } from 'pagefault/kernel';

test('bits have their names, bits without a name are kept', () => {
  const table = ['a', undefined, 'c'] as const;
  const set = new FlagSet<'a' | 'c'>(0b1000_0111n, table);
  assert.deepEqual(set.names, ['a', 'c']);
  assert.equal(set.bits, 0b1000_0111n);
  assert.equal(set.unknown, 0b1000_0010n);
  assert.equal(set.has('c'), true);
  assert.equal(set.toString(), 'a, c, 0x82');
});

test('an empty set says so', () => {
  const set = new FlagSet<'a'>(0n, ['a']);
  assert.deepEqual([set.names, set.unknown, set.has('a'), `${set}`], [[], 0n, false, 'none']);
});
