import assert from 'node:assert/strict';
import { test } from 'node:test';
import { deserializeCause, serializeCause } from '#dist/errors/cause.js';

test('an error keeps its name, message, code, stack and cause on the way to another thread', () => {
  const original = Object.assign(new TypeError('fetch failed', { cause: new Error('refused') }), { code: 'ECONN' });
  const error = deserializeCause(serializeCause(original)) as Error & { code?: string };
  assert.ok(error instanceof Error);
  assert.equal(error.name, 'TypeError');
  assert.equal(error.message, 'fetch failed');
  assert.equal(error.code, 'ECONN');
  assert.equal(error.stack, original.stack);
  assert.equal((error.cause as Error).message, 'refused');
});

test('what was thrown and is no error becomes one', () => {
  assert.equal(deserializeCause(serializeCause('a string'))?.message, 'a string');
  assert.equal(deserializeCause(serializeCause(undefined))?.message, 'undefined');
  assert.equal(deserializeCause(serializeCause(Object.create(null)))?.message, 'a value that cannot be printed');
});

test('a cause never takes more than 3 KiB and is always whole JSON', () => {
  for (const long of ['x'.repeat(100_000), '💥'.repeat(100_000), '"\\\n'.repeat(50_000)]) {
    const error = new Error(long, { cause: new Error(long, { cause: new Error(long) }) });
    error.stack = long;
    const json = serializeCause(error);
    assert.ok(Buffer.byteLength(json) <= 3072, String(json.length));
    assert.ok(json.length > 0);
    assert.ok(deserializeCause(json)?.message.startsWith(long.slice(0, 20)));
  }
});

test('an error whose properties throw is still told', () => {
  const error = new Error('outer');
  Object.defineProperty(error, 'code', {
    get() {
      throw new Error('no');
    },
  });
  assert.equal(serializeCause(error), '');
  assert.equal(deserializeCause(''), undefined);
});

test('JSON that was cut short still gives an error', () => {
  assert.ok(deserializeCause('{"name":"Err')?.message.includes('Err'));
});
