/** What is done with registered ranges: copy, zeropage, continue, poison, move, resolve; and what is refused. This thread touches only pages that are there. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Mapping, Memfd, pageSize, type Range, Uffd } from 'pagefault/kernel';
import { openFds } from '../helpers/descriptors.js';
import { closeAll, nextEvent, toucher } from '../helpers/toucher.js';

const TIMEOUT = { timeout: 60_000 };
const PAGE = pageSize();
const ENOENT = 2;
const EFAULT = 14;
const EBUSY = 16;
const EEXIST = 17;
const filled = (value: number, pages = 1): Uint8Array => new Uint8Array(pages * PAGE).fill(value);
const pagesOf = (range: Range, first: number, count = 1): Range => ({
  address: range.address + BigInt(first * PAGE),
  byteLength: count * PAGE,
});
const at = (range: Range, page: number): bigint => range.address + BigInt(page * PAGE);
const byteOf = (mapping: Mapping, page: number): number | undefined => new Uint8Array(mapping.buffer)[page * PAGE];

function registered(pages: number, ...modes: ('missing' | 'write-protect')[]): { uffd: Uffd; mapping: Mapping } {
  const uffd = Uffd.open();
  const mapping = Mapping.anonymous(pages * PAGE);
  uffd.register(mapping, modes.length === 0 ? 'missing' : modes);
  return { uffd, mapping };
}

test('pages are filled from bytes, from memory at an address, and with zeroes', TIMEOUT, () => {
  const { uffd, mapping } = registered(6);
  assert.equal(uffd.copy(at(mapping, 0), filled(1, 2)), 2 * PAGE);
  const source = new Uint8Array(PAGE + 3).fill(2).subarray(3); // a source need not be aligned
  assert.equal(uffd.copy(at(mapping, 2), source, { wake: false }), PAGE);
  assert.equal(uffd.copy(at(mapping, 3), pagesOf(mapping, 0, 2)), 2 * PAGE);
  assert.equal(uffd.zeropage(pagesOf(mapping, 5), { wake: false }), PAGE);
  assert.deepEqual(
    [0, 1, 2, 3, 4, 5].map((page) => byteOf(mapping, page)),
    [1, 1, 2, 1, 1, 0],
  );
  closeAll(uffd, mapping);
});

test('a page that is there stops a copy, which says how far it came', TIMEOUT, () => {
  const { uffd, mapping } = registered(4);
  uffd.copy(at(mapping, 2), filled(9));
  assert.throws(() => uffd.copy(at(mapping, 0), filled(1, 4)), {
    name: 'UffdError',
    code: 'ERR_PAGEFAULT_PARTIALLY_COPIED',
    copied: 2 * PAGE,
    address: at(mapping, 2),
    errno: EEXIST,
    syscall: 'ioctl(UFFDIO_COPY)',
  });
  assert.throws(() => uffd.copy(at(mapping, 2), filled(1)), { code: 'ERR_PAGEFAULT_COPY_FAILED', errno: EEXIST });
  assert.throws(() => uffd.zeropage(pagesOf(mapping, 2, 2)), { code: 'ERR_PAGEFAULT_ZEROPAGE_FAILED', errno: EEXIST });
  assert.equal(uffd.zeropage(pagesOf(mapping, 3)), PAGE);
  closeAll(uffd, mapping);
});

test('resolve goes past pages that are there and tells how many', TIMEOUT, () => {
  const { uffd, mapping } = registered(8);
  for (const page of [0, 3, 4, 7]) uffd.copy(at(mapping, page), filled(9));
  assert.deepEqual(uffd.resolve(mapping.address, filled(1, 8)), {
    status: 'done',
    byteLength: 8 * PAGE,
    copied: 4 * PAGE,
    present: 4 * PAGE,
  });
  assert.deepEqual(
    Array.from({ length: 8 }, (_, page) => byteOf(mapping, page)),
    [9, 1, 1, 9, 9, 1, 1, 9],
  );
  const done = { status: 'done', byteLength: 2 * PAGE, copied: 0, present: 2 * PAGE };
  assert.deepEqual(uffd.resolve(mapping.address, 'zero', { byteLength: 2 * PAGE }), done);
  mapping.advise('dontneed');
  assert.deepEqual(uffd.resolve(mapping.address, 'zero'), { ...done, byteLength: PAGE, copied: PAGE, present: 0 });
  uffd.unregister(pagesOf(mapping, 4, 4));
  assert.deepEqual(uffd.resolve(at(mapping, 4), filled(1)), { ...done, status: 'unmapped', byteLength: 0, present: 0 });
  assert.throws(() => uffd.resolve(at(mapping, 1), { address: 4096n, byteLength: PAGE }), {
    code: 'ERR_PAGEFAULT_COPY_FAILED',
    errno: EFAULT,
  });
  closeAll(uffd, mapping);
});

test('a minor fault of shared memory is answered by continue', TIMEOUT, async () => {
  const uffd = Uffd.open({ features: ['minor-shmem'] });
  const memfd = Memfd.create('minor', { byteLength: 4 * PAGE });
  memfd.write(0, filled(6, 3));
  const mapping = Mapping.memfd(memfd);
  assert.ok(uffd.register(mapping, ['missing', 'minor']).has('continue'));
  const thread = await toucher();
  const read = thread.order('read', mapping, PAGE);
  const event = await nextEvent(uffd);
  assert.equal(event.type === 'pagefault' && event.kind, 'minor');
  assert.equal(uffd.continue(pagesOf(mapping, 1)), PAGE);
  assert.equal(await read, 6);
  const three = { byteLength: 3 * PAGE };
  assert.deepEqual(uffd.resolve(mapping.address, 'continue', three), {
    status: 'done',
    byteLength: 3 * PAGE,
    copied: 2 * PAGE,
    present: PAGE,
  });
  assert.throws(() => uffd.continue(pagesOf(mapping, 3)), { errno: EFAULT, message: /a hole/ });
  await thread.end();
  closeAll(uffd, mapping);
  memfd.close();
});

test('pages are poisoned, healed, moved away and back', TIMEOUT, (t) => {
  const uffd = Uffd.open({ optionalFeatures: ['poison', 'move'] });
  if (!uffd.features.has('poison') || !uffd.features.has('move')) {
    uffd.close();
    return t.skip('needs Linux 6.8');
  }
  const mapping = Mapping.anonymous(2 * PAGE);
  const staging = Mapping.anonymous(2 * PAGE);
  uffd.register(mapping, 'missing');
  uffd.register(staging, 'missing');
  assert.equal(uffd.poison(pagesOf(mapping, 1)), PAGE);
  assert.throws(() => uffd.poison(pagesOf(mapping, 1)), { code: 'ERR_PAGEFAULT_COPY_FAILED', errno: EEXIST });
  assert.equal(uffd.copy(at(mapping, 0), filled(5)), PAGE);
  assert.equal(uffd.copy(at(mapping, 1), filled(6)), PAGE);
  assert.equal(uffd.move(staging.address, mapping), 2 * PAGE);
  assert.deepEqual([byteOf(staging, 0), byteOf(staging, 1)], [5, 6]);
  assert.throws(() => uffd.move(staging.address, mapping), { errno: EEXIST });
  assert.equal(uffd.move(mapping.address, pagesOf(staging, 0)), PAGE);
  assert.throws(() => uffd.move(at(mapping, 1), pagesOf(staging, 0)), { errno: ENOENT, message: /allowHoles/ });
  assert.equal(uffd.move(at(mapping, 1), pagesOf(staging, 0), { allowHoles: true }), PAGE);
  assert.equal(byteOf(mapping, 0), 5);
  closeAll(uffd, mapping, staging);
});

test('ranges that are none are refused before the kernel, and in a sentence', TIMEOUT, () => {
  const before = openFds();
  const { uffd, mapping } = registered(2);
  const { address } = mapping;
  const calls: ((range: Range) => unknown)[] = [
    (range) => uffd.register(range, 'missing'),
    (range) => uffd.unregister(range),
    (range) => uffd.wake(range),
    (range) => uffd.zeropage(range),
    (range) => uffd.continue(range),
    (range) => uffd.poison(range),
    (range) => uffd.writeProtect(range),
    (range) => uffd.removeWriteProtection(range),
    (range) => uffd.move(address, range),
    (range) => uffd.resolve(range.address, 'zero', { byteLength: range.byteLength }),
  ];
  const high = (1n << 64n) - BigInt(PAGE);
  for (const call of calls) {
    const bad: [Range, string][] = [
      [{ address: address + 1n, byteLength: PAGE }, 'RangeError'],
      [{ address, byteLength: PAGE + 1 }, 'RangeError'],
      [{ address, byteLength: PAGE + 0.5 }, 'RangeError'],
      [{ address, byteLength: 0 }, 'RangeError'],
      [{ address, byteLength: -PAGE }, 'RangeError'],
      [{ address, byteLength: Number.NaN }, 'RangeError'],
      [{ address: high, byteLength: 2 * PAGE }, 'RangeError'],
      [{ address: 1n << 64n, byteLength: PAGE }, 'RangeError'],
      [{ address: -4096n, byteLength: PAGE }, 'RangeError'],
      [{ address: Number(address) as unknown as bigint, byteLength: PAGE }, 'TypeError'],
      [{ address, byteLength: '4096' as unknown as number }, 'TypeError'],
    ];
    for (const [range, name] of bad) assert.throws(() => call(range), { name }, `${call} ${range.byteLength}`);
  }
  for (const call of calls.slice(0, 9)) assert.throws(() => call(undefined as unknown as Range), { name: 'TypeError' });
  for (const source of [new Uint8Array(PAGE - 1), new Uint8Array(0)]) {
    assert.throws(() => uffd.copy(address, source), { name: 'RangeError' });
    assert.throws(() => uffd.resolve(address, source), { name: 'RangeError' });
  }
  for (const source of [undefined, null, 'x', 5, new Uint16Array(PAGE)]) {
    assert.throws(() => uffd.copy(address, source as unknown as Uint8Array), { name: 'TypeError' });
    assert.throws(() => uffd.resolve(address, source as unknown as Uint8Array), { name: 'TypeError' });
  }
  assert.throws(() => uffd.copy(address, filled(1), { woke: true } as object), /did you mean 'wake'/);
  assert.throws(() => uffd.resolve(address, 'zero', { writeProtect: true }), /cannot arrive write-protected/);
  assert.throws(() => uffd.register(mapping, []), /at least one mode/);
  assert.throws(() => uffd.register(mapping, 'mising' as 'missing'), /did you mean 'missing'/);
  closeAll(uffd, mapping);
  assert.equal(openFds(), before);
});

test('what the kernel refuses is said: unmapped, another’s, not registered, closed', TIMEOUT, () => {
  const { uffd, mapping } = registered(1);
  const other = Uffd.open();
  const code = 'ERR_PAGEFAULT_SYSTEM';
  assert.throws(() => other.register(mapping, 'missing'), { code, errno: EBUSY, message: /another userfaultfd/ });
  assert.throws(() => other.writeProtect(mapping), { code, errno: ENOENT, message: /not registered/ });
  const file = Mapping.anonymous(PAGE);
  assert.throws(() => other.register(file, 'minor'), { code, errno: 22, message: /of a kind that this mode/ });
  file.unmap();
  assert.throws(() => other.copy(pagesOf({ address: 1n << 20n, byteLength: PAGE }, 0).address, filled(1)), {
    errno: ENOENT,
  });
  other.close();
  const closed = { code: 'ERR_PAGEFAULT_CLOSED', message: 'this Uffd is closed' };
  for (const call of [
    () => other.register(mapping, 'missing'),
    () => other.unregister(mapping),
    () => other.copy(mapping.address, filled(1)),
    () => other.zeropage(mapping),
    () => other.wake(mapping),
    () => other.move(mapping.address, mapping),
    () => other.resolve(mapping.address, 'zero'),
    () => other.readEvents(),
    () => other.onReadable(() => {}),
    () => other.intoFd(),
    () => other.fd,
  ]) {
    assert.throws(call, closed);
  }
  closeAll(uffd, mapping);
});
