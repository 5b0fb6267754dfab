import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Mapping, pageSize } from 'pagefault/kernel';
import { breakHasRoom, mappedAt } from '../helpers/proc.js';

const page = pageSize();
const deadline = { timeout: 60_000 };
const inTheWay = breakHasRoom(1 << 20) ? {} : { skip: 'V8 has put code behind the break of this process' };

for (const from of ['malloc', 'brk'] as const) {
  test(`pages of the heap by ${from} are whole and read zero`, {
    ...deadline,
    ...(from === 'brk' ? inTheWay : {}),
  }, () => {
    const memory = Mapping.heap(8 * page, { from });
    assert.equal(memory.kind, 'heap');
    assert.equal(memory.address % BigInt(page), 0n);
    const bytes = new Uint8Array(memory.buffer);
    assert.ok(bytes.every((byte) => byte === 0));
    bytes.fill(3);
    memory.advise('dontneed', page, page);
    assert.equal(bytes[page], 0);
    assert.equal(bytes[2 * page], 3);
    assert.throws(() => memory.patch(0, 'anonymous'), { name: 'TypeError', message: /heap cannot be patched/ });
    memory.unmap();
    assert.equal(bytes.length, 0);
  });
}

test('memory behind the break is in the heap and stays mapped', { ...deadline, ...inTheWay }, () => {
  const memory = Mapping.heap(2 * page, { from: 'brk' });
  assert.equal(mappedAt(memory.address)?.path, '[heap]');
  const bytes = new Uint8Array(Mapping.bufferAt(memory)).fill(1);
  memory.unmap();
  assert.equal(mappedAt(memory.address)?.path, '[heap]');
  assert.equal(bytes[0], 0, 'what was in it is dropped');
});

test('malloc gets back memory that was protected and not inherited', deadline, () => {
  for (let i = 0; i < 200; i++) {
    const memory = Mapping.heap((1 + (i % 50)) * page);
    memory.advise('dontfork');
    memory.protect(i % 2 === 0 ? 'none' : 'read');
    memory.unmap();
  }
});

test('what the heap cannot give is refused in a sentence', deadline, () => {
  for (const size of [0, -1, 1.5, page + 1, 2 ** 53, 2 ** 50]) {
    assert.throws(() => Mapping.heap(size), { name: 'RangeError' }, String(size));
  }
  for (const from of ['malloc', 'brk'] as const) {
    assert.throws(() => Mapping.heap(2 ** 46, { from }), { name: 'SystemError', errno: 12, message: /RLIMIT_DATA/ });
  }
  assert.throws(() => Mapping.heap(page, { from: 'stack' as never }), {
    name: 'TypeError',
    message: /'malloc' or 'brk'/,
  });
});
