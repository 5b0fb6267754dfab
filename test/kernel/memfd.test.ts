import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { Mapping, Memfd, pageSize, receiveFds, type Seal, sendFds, UnixSocket } from 'pagefault/kernel';
import { reserveHugePages } from '../helpers/huge-pages.js';
import { countDescriptors } from '../helpers/proc.js';

const page = pageSize();
const deadline = { timeout: 60_000 };

/** Without the seal that vm.memfd_noexec gives. */
function sealsOf(memfd: Memfd): Seal[] {
  return memfd.seals.names.filter((seal) => seal !== 'exec');
}

test('a memory object has the size and the bytes that it was given, and closes once', deadline, () => {
  const before = countDescriptors();
  const memfd = Memfd.create('test object', { byteLength: 3 * page + 5 });
  assert.equal(memfd.byteLength, 3 * page + 5);
  assert.equal(memfd.pageSize, page);
  assert.equal(memfd.allocatedBytes, 0);
  assert.equal(memfd.write(page - 1, Uint8Array.of(1, 2, 3)), 3);
  assert.equal(memfd.allocatedBytes, 2 * page);
  const bytes = new Uint8Array(4);
  assert.equal(memfd.read(page - 2, bytes), 4);
  assert.deepEqual([...bytes], [0, 1, 2, 3]);
  assert.equal(memfd.read(3 * page + 3, bytes), 2, 'up to the end');
  assert.equal(memfd.read(4 * page, bytes), 0, 'nothing behind it');
  assert.equal(countDescriptors(), before + 1);
  memfd.close();
  memfd.close();
  memfd[Symbol.dispose]();
  assert.equal(memfd.closed, true);
  assert.equal(countDescriptors(), before);
  const uses = [
    () => memfd.fd,
    () => memfd.byteLength,
    () => memfd.seals,
    () => memfd.allocatedBytes,
    () => memfd.resize(1),
    () => memfd.addSeals([]),
    () => memfd.read(0, bytes),
    () => memfd.write(0, bytes),
    () => memfd.punchHole(0, 1),
    () => memfd.intoFd(),
    () => Mapping.memfd(memfd),
  ];
  for (const use of uses) assert.throws(use, { code: 'ERR_PAGEFAULT_CLOSED', message: 'this Memfd is closed' });
});

test('names and options that cannot be are refused', deadline, () => {
  assert.throws(() => Memfd.create(5 as never), { name: 'TypeError', message: /name must be a string/ });
  assert.throws(() => Memfd.create('a\0b'), { name: 'TypeError', message: /zero byte/ });
  assert.throws(() => Memfd.create('ü'.repeat(125)), {
    name: 'RangeError',
    message: /250 bytes; the kernel takes 249/,
  });
  Memfd.create('x'.repeat(249)).close();
  assert.throws(() => Memfd.create('x', { size: 4 } as never), { name: 'TypeError', message: /no option 'size'/ });
  for (const byteLength of [-1, 0.5, 2 ** 53]) {
    assert.throws(() => Memfd.create('x', { byteLength }), { name: 'RangeError', message: /byteLength/ });
  }
  const before = countDescriptors();
  assert.throws(() => Memfd.create('x', { sealable: 1 as never }), { name: 'TypeError' });
  assert.equal(countDescriptors(), before);
});

test('reads and writes of the wrong kind are refused, a write past the end grows', deadline, () => {
  const memfd = Memfd.create('x', { byteLength: page });
  assert.throws(() => memfd.read(-1, new Uint8Array(1)), { name: 'RangeError' });
  assert.throws(() => memfd.read(0, new Uint16Array(1) as never), { name: 'TypeError', message: /needs a Uint8Array/ });
  assert.throws(() => memfd.write(2 ** 53 - 1, new Uint8Array(2)), { name: 'RangeError', message: /2\^53/ });
  assert.throws(() => memfd.punchHole(0, 0), { name: 'RangeError' });
  assert.throws(() => memfd.punchHole(2 ** 53 - 1, 1), { name: 'RangeError' });
  assert.equal(memfd.write(2 * page, new Uint8Array(3)), 3);
  assert.equal(memfd.byteLength, 2 * page + 3);
  assert.equal(memfd.write(0, new Uint8Array(0)), 0);
  memfd.resize(page);
  assert.equal(memfd.byteLength, page);
  memfd.resize(0);
  assert.throws(() => memfd.resize(-1), { name: 'RangeError' });
  memfd.close();
});

test('each seal forbids its own, and the refusal names it', deadline, () => {
  const bytes = new Uint8Array(page).fill(1);
  const forbidden: [Seal, (memfd: Memfd) => void][] = [
    ['shrink', (memfd) => memfd.resize(page)],
    ['grow', (memfd) => memfd.resize(3 * page)],
    ['grow', (memfd) => memfd.write(2 * page, bytes)],
    ['write', (memfd) => memfd.write(0, bytes)],
    ['write', (memfd) => memfd.punchHole(0, page)],
    ['future-write', (memfd) => memfd.write(0, bytes)],
    ['seal', (memfd) => memfd.addSeals(['grow'])],
  ];
  for (const [seal, use] of forbidden) {
    const memfd = Memfd.create('sealed', { byteLength: 2 * page });
    assert.deepEqual(sealsOf(memfd), []);
    memfd.addSeals([seal]);
    assert.deepEqual(sealsOf(memfd), [seal]);
    assert.throws(() => use(memfd), {
      name: 'SystemError',
      errno: 1,
      message: new RegExp(`the seal '${seal}' forbids it`),
    });
    memfd.close();
  }
});

test('seals against writing look at mappings that can write', deadline, () => {
  const memfd = Memfd.create('sealed', { byteLength: page });
  const memory = Mapping.memfd(memfd);
  assert.throws(() => memfd.addSeals(['write']), { errno: 16, message: /a shared mapping of it can still write/ });
  memfd.addSeals(['future-write']);
  new Uint8Array(memory.buffer)[0] = 4;
  assert.throws(() => Mapping.memfd(memfd), { name: 'SystemError', errno: 1, message: /seal/ });
  const readable = Mapping.memfd(memfd, { protection: 'read' });
  assert.equal(new Uint8Array(readable.buffer)[0], 4);
  assert.throws(() => readable.protect('read-write'), { name: 'SystemError', errno: 13, message: /seal forbids/ });
  readable.unmap();
  memory.unmap();
  memfd.addSeals(['write', 'seal']);
  assert.deepEqual(sealsOf(memfd), ['seal', 'write', 'future-write']);
  memfd.close();
  const unsealable = Memfd.create('x', { sealable: false });
  assert.deepEqual(sealsOf(unsealable), ['seal']);
  assert.throws(() => unsealable.addSeals(['write']), { errno: 1, message: /'seal'/ });
  assert.throws(() => unsealable.addSeals(['read' as Seal]), { name: 'TypeError', message: /a seal must be one of/ });
  assert.throws(() => unsealable.addSeals('write' as never), { name: 'TypeError', message: /array/ });
  unsealable.close();
});

test('a hole gives memory back in every mapping and keeps the size', deadline, () => {
  const memfd = Memfd.create('holes', { byteLength: 8 * page });
  const one = Mapping.memfd(memfd);
  const other = Mapping.memfd(memfd);
  const bytes = new Uint8Array(one.buffer).fill(5);
  assert.equal(memfd.allocatedBytes, 8 * page);
  memfd.punchHole(2 * page, 3 * page);
  assert.equal(memfd.allocatedBytes, 5 * page);
  assert.equal(memfd.byteLength, 8 * page);
  assert.equal(new Uint8Array(other.buffer)[4 * page], 0);
  assert.equal(bytes[5 * page], 5);
  one.advise('remove', 0, page);
  assert.equal(memfd.allocatedBytes, 5 * page, 'reading a hole brought one page back, and remove took one away');
  one.unmap();
  other.unmap();
  memfd.close();
});

test('fromFd takes a memory object over and refuses all else', deadline, () => {
  const folder = mkdtempSync(join('/dev/shm', 'pagefault-'));
  writeFileSync(join(folder, 'file'), 'x');
  const file = openSync(join(folder, 'file'), 'r+');
  const device = openSync('/dev/null', 'r');
  const before = countDescriptors();
  for (const fd of [file, device]) {
    assert.throws(() => Memfd.fromFd(fd), {
      name: 'DescriptorError',
      code: 'ERR_PAGEFAULT_WRONG_DESCRIPTOR',
      message: new RegExp(`descriptor ${fd} is /dev/`),
    });
    fstatSync(fd); // still ours
  }
  assert.throws(() => Memfd.fromFd(9999), { name: 'DescriptorError', message: /is not open/ });
  assert.throws(() => Memfd.fromFd(-1), { name: 'RangeError' });
  assert.throws(() => Memfd.fromFd('1' as never), { name: 'TypeError' });
  assert.equal(countDescriptors(), before);
  const memfd = Memfd.create('x', { byteLength: 7 });
  const fd = memfd.intoFd();
  assert.equal(memfd.closed, true);
  const again = Memfd.fromFd(fd);
  assert.equal(again.byteLength, 7);
  again.close();
  assert.equal(countDescriptors(), before);
  closeSync(file);
  closeSync(device);
  rmSync(folder, { recursive: true });
});

test('another process that gets the descriptor shares the memory', deadline, () => {
  const memfd = Memfd.create('shared', { byteLength: 2 * page });
  const memory = Mapping.memfd(memfd);
  const bytes = new Uint8Array(memory.buffer);
  bytes[0] = 41;
  const code = `import { Mapping, Memfd } from 'pagefault/kernel';
    const memfd = Memfd.fromFd(3);
    const bytes = new Uint8Array(Mapping.memfd(memfd).buffer);
    bytes[${page}] = bytes[0] + 1;
    console.log(memfd.byteLength);`;
  const child = spawnSync(process.execPath, ['--input-type=module', '--eval', code], {
    stdio: ['ignore', 'pipe', 'inherit', memfd.fd],
    encoding: 'utf8',
    timeout: 30_000,
  });
  assert.equal(child.stdout, `${2 * page}\n`);
  assert.equal(bytes[page], 42);
  memory.unmap();
  memfd.close();
});

test('a memory object goes through a socket', deadline, () => {
  const before = countDescriptors();
  const [ours, theirs] = UnixSocket.pair();
  const memfd = Memfd.create('sent', { byteLength: page });
  sendFds(ours, [memfd.fd]);
  const [fd = -1] = receiveFds(theirs)?.fds ?? [];
  const received = Memfd.fromFd(fd);
  memfd.write(0, Uint8Array.of(8));
  const memory = Mapping.memfd(received);
  assert.equal(new Uint8Array(memory.buffer)[0], 8);
  memory.unmap();
  for (const each of [ours, theirs, memfd, received]) each.close();
  assert.equal(countDescriptors(), before);
});

test('closeOnExec decides who inherits the descriptor', deadline, () => {
  for (const closeOnExec of [true, false]) {
    const memfd = Memfd.create('x', { closeOnExec });
    const [, flags = ''] = /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${memfd.fd}`, 'utf8')) ?? [];
    assert.equal((Number.parseInt(flags, 8) & 0o2000000) !== 0, closeOnExec);
    memfd.close();
  }
});

test('huge memory objects come in huge pages', deadline, (t) => {
  const size = reserveHugePages(2);
  if (typeof size === 'string') return t.skip(size);
  const before = countDescriptors();
  assert.throws(() => Memfd.create('x', { hugePages: true, byteLength: page }), {
    name: 'RangeError',
    message: /page size/,
  });
  const memfd = Memfd.create('huge', { hugePages: size, byteLength: 2 * size });
  assert.equal(memfd.pageSize, size);
  assert.throws(() => memfd.resize(size + page), { name: 'RangeError' });
  assert.throws(() => memfd.write(0, new Uint8Array(1)), { errno: 22, message: /through a mapping/ });
  const memory = Mapping.memfd(memfd);
  assert.equal(memory.pageSize, size);
  new Uint8Array(memory.buffer)[size] = 9;
  const bytes = new Uint8Array(1);
  assert.equal(memfd.read(size, bytes), 1);
  assert.equal(bytes[0], 9);
  memfd.punchHole(size, size);
  assert.equal(new Uint8Array(memory.buffer)[size], 0);
  memory.unmap();
  memfd.close();
  assert.equal(countDescriptors(), before);
});
