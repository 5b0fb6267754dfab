/** What pages are copied from: every shape that bytes of JavaScript can have, and what lies about its length. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { runInNewContext } from 'node:vm';
import { Mapping, pageSize, Uffd } from 'pagefault/kernel';
import { closeAll } from '../helpers/toucher.js';

const TIMEOUT = { timeout: 60_000 };
const PAGE = pageSize();

/** ES2024, which the types of Node.js 20 do not have. */
type Resizable = ArrayBuffer & { resize(byteLength: number): void };
const resizable = (byteLength: number, maxByteLength: number): Resizable =>
  new (ArrayBuffer as new (byteLength: number, options: object) => ArrayBuffer)(byteLength, {
    maxByteLength,
  }) as Resizable;
const growable = (byteLength: number, maxByteLength: number): SharedArrayBuffer =>
  new (SharedArrayBuffer as new (byteLength: number, options: object) => SharedArrayBuffer)(byteLength, {
    maxByteLength,
  });

test(
  'bytes of any buffer are copied: shared, resizable, growable, offset, of another realm, of WebAssembly',
  TIMEOUT,
  () => {
    const uffd = Uffd.open();
    const mapping = Mapping.anonymous(16 * PAGE);
    uffd.register(mapping, 'missing');
    const shrunk = resizable(4 * PAGE, 8 * PAGE);
    const tracking = new Uint8Array(shrunk);
    shrunk.resize(PAGE);
    const sources = [
      new Uint8Array(new SharedArrayBuffer(PAGE)),
      new Uint8Array(growable(PAGE, 2 * PAGE)),
      tracking,
      new Uint8Array(PAGE + 5).subarray(5),
      Buffer.alloc(PAGE),
      runInNewContext(`new Uint8Array(${PAGE})`) as Uint8Array,
      new Uint8Array(runInNewContext('new WebAssembly.Memory({ initial: 1 }).buffer') as ArrayBuffer, 0, PAGE),
    ];
    const bytes = new Uint8Array(mapping.buffer);
    sources.forEach((source, i) => {
      source.fill(i + 1);
      const at = 2 * i * PAGE;
      assert.equal(uffd.copy(mapping.address + BigInt(at), source), PAGE);
      assert.deepEqual(uffd.resolve(mapping.address + BigInt(at + PAGE), source), {
        status: 'done',
        byteLength: PAGE,
        copied: PAGE,
        present: 0,
      });
      assert.deepEqual([bytes[at], bytes[at + 2 * PAGE - 1]], [i + 1, i + 1]);
    });
    assert.deepEqual(uffd.readEvents(runInNewContext('new Uint8Array(64)') as Uint8Array), []);
    closeAll(uffd, mapping);
  },
);

test(
  'bytes that are gone, too few, or not where they are said to be are refused, and nothing is copied',
  TIMEOUT,
  () => {
    const uffd = Uffd.open();
    const mapping = Mapping.anonymous(4 * PAGE);
    uffd.register(mapping, 'missing');
    const { address } = mapping;
    const transferred = new ArrayBuffer(PAGE);
    const detached = new Uint8Array(transferred);
    structuredClone(transferred, { transfer: [transferred] });
    const shrunk = resizable(2 * PAGE, 2 * PAGE);
    const outside = new Uint8Array(shrunk, PAGE, PAGE);
    shrunk.resize(PAGE);
    const unmapped = Mapping.anonymous(PAGE);
    const dropped = new Uint8Array(unmapped.buffer);
    unmapped.unmap();
    for (const source of [detached, outside, dropped, new Uint8Array(0)]) {
      assert.throws(() => uffd.copy(address, source), { name: 'RangeError', message: /above 0, not 0/ });
      assert.throws(() => uffd.resolve(address, source), { name: 'RangeError', message: /above 0, not 0/ });
      assert.throws(() => uffd.readEvents(source), { name: 'RangeError', message: /room for a message/ });
    }
    const liar = Object.defineProperty(new Uint8Array(PAGE), 'byteLength', { value: 4 * PAGE });
    assert.throws(() => uffd.copy(address, liar), { code: 'ERR_PAGEFAULT_COPY_FAILED', errno: 22 });
    for (const from of [1n << 64n, (1n << 64n) - 100n, -1n]) {
      const source = { address: from, byteLength: PAGE };
      for (const call of [() => uffd.copy(address, source), () => uffd.resolve(address, source)]) {
        assert.throws(call, { name: 'RangeError', message: /the source, .*does not lie within 0 to 2\^64/ });
      }
    }
    assert.equal(uffd.zeropage(mapping), mapping.byteLength);
    closeAll(uffd, mapping);
  },
);

test('options of resolve are looked at before the kernel is asked', TIMEOUT, () => {
  const uffd = Uffd.open();
  const mapping = Mapping.anonymous(4 * PAGE);
  uffd.register(mapping, 'missing');
  const { address } = mapping;
  const refused = (options: unknown, error: object): void =>
    assert.throws(() => uffd.resolve(address, 'zero', options as object), error);
  refused(null, { name: 'TypeError', message: /options must be an object/ });
  refused({ wake: 'no' }, { name: 'TypeError', message: /must be true or false/ });
  for (const pageSize of [3, PAGE - 1, 3 * PAGE, 0, -PAGE, Number.NaN, 2 ** 53, '4096']) {
    refused({ pageSize }, { name: 'RangeError', message: /'pageSize' must be a power of two/ });
  }
  // A page that is there, and a step over more than that: the missing ones behind it would have been said to be there.
  uffd.copy(address, new Uint8Array(PAGE));
  const pageSize = 4 * PAGE;
  const inside = { address: address % BigInt(pageSize) === 0n ? address + BigInt(PAGE) : address };
  assert.throws(() => uffd.resolve(inside.address, 'zero', { byteLength: PAGE, pageSize }), {
    name: 'RangeError',
    message: /no whole pages of the option 'pageSize'/,
  });
  closeAll(uffd, mapping);
});
