import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ClosedError, PageError, PagefaultError, StaleHandleError, SystemError } from 'pagefault';
import { serializeCause } from '#dist/errors/cause.js';
import { fromNative, toPageError } from '#dist/errors/from-native.js';

const failure = { region: 7, offset: 8192, code: 'ERR_PAGEFAULT_STORE', errno: 0, message: 'it broke', cause: '' };
const where = { name: 'data', pageSize: 4096 };

test('a failure becomes a PageError with segment, offset, page and code', () => {
  const error = toPageError(failure, where) as PageError;
  assert.ok(error instanceof PageError);
  assert.ok(error instanceof PagefaultError);
  assert.equal(error.name, 'PageError');
  assert.equal(error.code, 'ERR_PAGEFAULT_STORE');
  assert.equal(error.segment, 'data');
  assert.equal(error.offset, 8192);
  assert.equal(error.page, 2);
  assert.equal(error.errno, undefined);
  assert.equal(error.cause, undefined);
  assert.equal(error.message, 'page at offset 8192 of segment "data": it broke');
});

test('the cause is the error that the store threw', () => {
  const cause = serializeCause(Object.assign(new RangeError('boom'), { code: 'E_BOOM' }));
  const error = toPageError({ ...failure, cause }, where);
  assert.equal((error.cause as Error).message, 'boom');
  assert.equal((error.cause as Error).name, 'RangeError');
  assert.equal((error.cause as { code?: string }).code, 'E_BOOM');
});

test('the cause of a failed file read is an error as fs makes it', () => {
  const error = toPageError({ ...failure, errno: 5 }, where);
  assert.equal(error.errno, 5);
  assert.equal((error.cause as NodeJS.ErrnoException).code, 'EIO');
  assert.equal((error.cause as NodeJS.ErrnoException).errno, -5);
});

test('what the core throws becomes the class of its code', () => {
  const thrown = (code: string, more: object = {}): unknown =>
    fromNative(Object.assign(new Error('from C'), { code, ...more }), where);
  assert.ok(thrown('ERR_PAGEFAULT_CLOSED') instanceof ClosedError);
  assert.ok(thrown('ERR_PAGEFAULT_STALE_HANDLE') instanceof StaleHandleError);
  const system = thrown('ERR_PAGEFAULT_SYSTEM', { errno: 12, syscall: 'mmap' }) as SystemError;
  assert.ok(system instanceof SystemError);
  assert.equal(system.errno, 12);
  assert.equal(system.syscall, 'mmap');
  assert.ok(thrown('ERR_PAGEFAULT_STORE', { failure }) instanceof PageError);
  assert.ok(thrown('ERR_PAGEFAULT_BUDGET') instanceof PagefaultError);
  const argument = Object.assign(new RangeError('wrong'), { code: 'ERR_PAGEFAULT_OUT_OF_RANGE' });
  for (const other of [new Error('not ours'), argument, new ClosedError('data'), 'a string', undefined]) {
    assert.equal(fromNative(other, where), other);
  }
});

test('a page that failed because the segment was closed is a ClosedError', () => {
  assert.ok(toPageError({ ...failure, code: 'ERR_PAGEFAULT_CLOSED' }, where) instanceof ClosedError);
});
