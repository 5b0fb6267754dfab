import assert from 'node:assert/strict';
import { resolve } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { custom, file, memory, zero } from 'pagefault/stores';

const url = new URL('../fixtures/pattern.js', import.meta.url);

test('a reference is frozen plain data that survives structured cloning', () => {
  for (const ref of [file('a'), memory(new Uint8Array(8)), zero(4096), custom(url, { a: 1 })]) {
    assert.ok(Object.isFrozen(ref));
    assert.equal(Object.getPrototypeOf(ref), Object.prototype);
    assert.deepEqual(structuredClone(ref), ref);
  }
});

test('file() makes its path absolute at once and takes file: URLs', () => {
  assert.equal(file('a/../b').path, resolve('b'));
  assert.equal(file(pathToFileURL('/x y')).path, '/x y');
  assert.equal(file('file:///x').path, '/x');
  assert.deepEqual(file('/x', { offset: 4, byteLength: 5, onChange: 'ignore' }), {
    kind: 'file',
    path: '/x',
    offset: 4,
    byteLength: 5,
    onChange: 'ignore',
    create: undefined,
  });
  assert.equal(file('/x').onChange, 'fail');
});

test('file() refuses what is no path and what is no option in a sentence', () => {
  assert.throws(() => file(''), { name: 'TypeError', message: 'file(): the path is empty' });
  assert.throws(() => file(3 as never), { name: 'TypeError', message: /must be a string or a file: URL, not 3/ });
  assert.throws(() => file('a\0b'), { name: 'TypeError', message: /null byte/ });
  assert.throws(() => file(new URL('https://example.org/')), { name: 'TypeError', message: /https:/ });
  assert.throws(() => file('a', { ofset: 1 } as never), { message: /did you mean 'offset'\?/ });
  assert.throws(() => file('a', { offset: -1 }), { name: 'RangeError', message: /offset must be .* from 0 .* not -1/ });
  assert.throws(() => file('a', { byteLength: 0 }), { name: 'RangeError', message: /byteLength .* from 1 .* not 0/ });
  assert.throws(() => file('a', { offset: 0.5 }), { name: 'RangeError' });
  assert.throws(() => file('a', { offset: '1' as never }), { name: 'TypeError' });
  assert.throws(() => file('a', { onChange: 'panic' as never }), { name: 'TypeError', message: /'fail' or 'ignore'/ });
});

test('file() takes the length of a file that is to be made, and refuses one that the store does not fit into', () => {
  assert.equal(file('/x', { create: '64KiB' }).create, 65536);
  assert.equal(file('/x', { create: 10, offset: 4, byteLength: 6 }).create, 10);
  assert.throws(() => file('/x', { create: 0 }), { name: 'RangeError', message: /create makes a file of 0 bytes/ });
  assert.throws(() => file('/x', { create: 10, offset: 10 }), {
    name: 'RangeError',
    message: /need 11 bytes at least/,
  });
  assert.throws(() => file('/x', { create: 10, offset: 4, byteLength: 7 }), { name: 'RangeError', message: /need 11/ });
  assert.throws(() => file('/x', { create: true as never }), {
    name: 'TypeError',
    message: /file\(\): create must be/,
  });
});

test('memory() takes buffers and views and shows exactly their bytes', () => {
  const bytes = new Uint8Array([1, 2, 3, 4, 5, 6, 7, 8]);
  assert.deepEqual(memory(bytes.subarray(2, 4)).bytes, new Uint8Array([3, 4]));
  assert.equal(memory(bytes.buffer).bytes.byteLength, 8);
  assert.equal(memory(new SharedArrayBuffer(16)).bytes.byteLength, 16);
  assert.deepEqual(memory(new DataView(bytes.buffer, 1, 2)).bytes, new Uint8Array([2, 3]));
  assert.throws(() => memory('x' as never), { name: 'TypeError', message: /an ArrayBuffer/ });
});

test('zero() takes a size and refuses none', () => {
  assert.equal(zero('64KiB').byteLength, 65536);
  assert.throws(() => zero(0), { name: 'RangeError', message: /at least 1/ });
});

test('custom() takes a URL, a file: string or an absolute path', () => {
  assert.equal(custom(url).moduleUrl, url.href);
  assert.equal(custom(url.href).moduleUrl, url.href);
  assert.equal(custom('/a b/store.js').moduleUrl, 'file:///a%20b/store.js');
});

test('custom() shows how to write it when it is given an inline store or a relative path', () => {
  const how = "custom(new URL('./store.js', import.meta.url), options)";
  for (const wrong of [{ byteLength: 1, read: () => 0 }, () => ({}), './store.js', 'store', 7, undefined, null]) {
    assert.throws(
      () => custom(wrong as never),
      (error: Error) => error instanceof TypeError && error.message.includes(how),
      String(wrong),
    );
  }
});

test('custom() refuses options that cannot travel, and copies those that can', () => {
  assert.throws(() => custom(url, { callback: () => {} }), {
    name: 'TypeError',
    code: 'ERR_PAGEFAULT_INVALID_ARGUMENT',
    message: /structured cloning/,
  });
  const options = { list: [1] };
  const ref = custom(url, options);
  options.list.push(2);
  assert.deepEqual(ref.options, { list: [1] });
});
