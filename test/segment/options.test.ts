import assert from 'node:assert/strict';
import { test } from 'node:test';
import { map } from 'pagefault';
import { zero } from 'pagefault/stores';
import { checkBudget, checkOptions, choosePageSize } from '#dist/segment/options.js';
import { shownPart } from '#dist/segment/range.js';

function refuses(options: object, name: string, code: string, message: RegExp): void {
  assert.throws(() => checkOptions(options), { name, code, message }, JSON.stringify(options));
}

test('the defaults are those of the documentation', () => {
  assert.deepEqual(checkOptions({}), {
    offset: 0,
    byteLength: undefined,
    pageSize: undefined,
    resident: undefined,
    readahead: -1,
    writable: false,
    pad: false,
    shared: false,
    into: undefined,
    backend: 'auto',
    kernelFaults: false,
    unreadable: 'abort',
    faultTimeoutMs: 30000,
    stallAfterMs: 3000,
    pollIntervalMs: 1000,
    workingSet: undefined,
    name: undefined,
    signal: undefined,
  });
});

test('options of a later release are refused in a sentence', () => {
  const code = 'ERR_PAGEFAULT_NOT_YET';
  refuses({ backend: 'kernel' }, 'TypeError', code, /backend 'kernel' is not in this release/);
  assert.equal(checkOptions({ writable: true }).writable, true);
});

test('each wrong option is a sentence that names it and its range', () => {
  const type = 'ERR_PAGEFAULT_INVALID_ARGUMENT';
  const range = 'ERR_PAGEFAULT_OUT_OF_RANGE';
  refuses({ resdient: 1 }, 'TypeError', 'ERR_PAGEFAULT_UNKNOWN_OPTION', /did you mean 'resident'\?/);
  refuses({ offset: -1 }, 'RangeError', range, /map\(\): offset must be a whole number from 0/);
  refuses({ offset: '0' }, 'TypeError', type, /offset must be a number, not '0'/);
  refuses({ byteLength: 0 }, 'RangeError', range, /byteLength must be a whole number from 1 .* not 0/);
  refuses({ byteLength: 1.5 }, 'RangeError', range, /not 1.5/);
  refuses({ pageSize: '4096' }, 'TypeError', type, /pageSize must be a number of bytes/);
  refuses({ resident: '1 MB' }, 'TypeError', type, /resident must be .*MiB/);
  refuses({ resident: {} }, 'TypeError', type, /resident must be a size or what budget\(\) returned/);
  refuses({ readahead: 'much' }, 'TypeError', type, /readahead, unless it is 'auto', must be/);
  refuses({ readahead: '2GiB' }, 'RangeError', range, /readahead must be at most 1 GiB, not 2 GiB/);
  refuses({ pollInterval: 100 }, 'TypeError', 'ERR_PAGEFAULT_UNKNOWN_OPTION', /did you mean 'pollIntervalMs'\?/);
  refuses({ pollIntervalMs: 9 }, 'RangeError', range, /pollIntervalMs must be a whole number from 10/);
  refuses({ pollIntervalMs: 3_600_001 }, 'RangeError', range, /pollIntervalMs must be at most 3600000, not 3600001/);
  refuses({ pollIntervalMs: '1s' }, 'TypeError', type, /pollIntervalMs must be a number, not '1s'/);
  refuses({ pad: 1 }, 'TypeError', type, /pad must be true or false, not 1/);
  refuses({ shared: 'yes' }, 'TypeError', type, /shared must be true or false/);
  refuses({ writeable: true }, 'TypeError', 'ERR_PAGEFAULT_UNKNOWN_OPTION', /did you mean 'writable'\?/);
  refuses({ writable: 'no' }, 'TypeError', type, /writable must be true or false/);
  refuses(
    { backend: 'magic' },
    'TypeError',
    type,
    /backend must be 'auto' or 'signal' or 'mprotect' or 'memfd' or 'thread', not 'magic'/,
  );
  refuses({ unreadable: 'skip' }, 'TypeError', type, /unreadable must be 'abort' or 'zero'/);
  refuses({ faultTimeoutMs: 0 }, 'RangeError', range, /faultTimeoutMs must be .* from 1/);
  refuses({ faultTimeoutMs: Number.POSITIVE_INFINITY }, 'RangeError', range, /faultTimeoutMs/);
  refuses({ faultTimeoutMs: 2 ** 31 }, 'RangeError', range, /at most 2\^31 - 1/);
  refuses({ name: '' }, 'TypeError', type, /name must be a string of 1 to 200 characters/);
  refuses({ signal: {} }, 'TypeError', type, /signal must be an AbortSignal/);
});

test('a page size is a power of two from the system page to 2 MiB, and the caller goes before the store', () => {
  assert.equal(choosePageSize(undefined, undefined, 4096), 4096);
  assert.equal(choosePageSize(undefined, 65536, 4096), 65536);
  assert.equal(choosePageSize(8192, 65536, 4096), 8192);
  assert.throws(() => choosePageSize(5000, undefined, 4096), {
    name: 'RangeError',
    message: 'map(): pageSize must be a power of two, not 5000',
  });
  assert.throws(() => choosePageSize(2048, undefined, 4096), { message: /at least the system's page size of 4096/ });
  assert.throws(() => choosePageSize(2 ** 22, undefined, 4096), { message: /at most 2 MiB/ });
  assert.throws(() => choosePageSize(undefined, 3, 4096), { message: /^the store's pageSize must be a power of two/ });
  for (const wrong of [0, -4096, Number.NaN, 4096.5, Number.POSITIVE_INFINITY]) {
    assert.throws(() => choosePageSize(wrong, undefined, 4096), { message: /power of two/ }, String(wrong));
  }
});

test('a budget below one page is refused with both numbers', () => {
  checkBudget(4096, 4096);
  assert.throws(() => checkBudget(4095, 4096), {
    name: 'RangeError',
    message: /one page of 4096 bytes, not 4095 bytes/,
  });
});

test('the part of a store is refused with both numbers where the store ends before it', () => {
  const asked = { offset: 0, byteLength: undefined, pad: false };
  assert.deepEqual(shownPart(100, 'it', asked), { offset: 0, byteLength: 100, storeLength: 100 });
  assert.deepEqual(shownPart(100, 'it', { ...asked, offset: 60 }), { offset: 60, byteLength: 40, storeLength: 40 });
  assert.deepEqual(shownPart(100, 'it', { offset: 60, byteLength: 500, pad: true }), {
    offset: 60,
    byteLength: 500,
    storeLength: 40,
  });
  assert.throws(() => shownPart(0, 'it', asked), { code: 'ERR_PAGEFAULT_STORE_EMPTY', message: /^it is empty/ });
  assert.throws(() => shownPart(100, 'it', { ...asked, offset: 100 }), {
    name: 'RangeError',
    message: 'map(): offset 100 is past the end of it, which has 100 bytes',
  });
  assert.throws(() => shownPart(100, 'it', { ...asked, offset: 50, byteLength: 51 }), {
    name: 'RangeError',
    message: /byteLength 51 is more than the 50 bytes that it has from offset 50; pad: true/,
  });
});

test('map() refuses a store that is none and says where stores come from', async () => {
  for (const wrong of [undefined, null, 'data.bin', {}, { read() {} }]) {
    await assert.rejects(map(wrong as never), { name: 'TypeError', message: /'pagefault\/stores'.*custom\(new URL/ });
  }
});

test('map() rejects with the reason of a signal that is aborted already', async () => {
  const reason = new Error('no longer needed');
  await assert.rejects(map(zero(4096), { signal: AbortSignal.abort(reason) }), reason);
});
