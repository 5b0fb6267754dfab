import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { closeSync, fstatSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Mapping, Memfd, pageSize } from 'pagefault/kernel';
import { countDescriptors, mappedAt } from '../helpers/proc.js';

const page = pageSize();
const deadline = { timeout: 60_000 };
const folder = mkdtempSync(join(tmpdir(), 'pagefault-mapping-'));
after(() => rmSync(folder, { recursive: true }));

function fileOf(name: string, byteLength: number): string {
  const path = join(folder, name);
  writeFileSync(
    path,
    Uint8Array.from({ length: byteLength }, (_, i) => (i * 7 + (i >> 12)) & 255),
  );
  return path;
}

test('a file is mapped whole, for reading, and its descriptor closed', deadline, () => {
  const path = fileOf('whole', 3 * page + 100);
  const before = countDescriptors();
  const memory = Mapping.file(path);
  assert.equal(countDescriptors(), before);
  assert.equal(memory.byteLength, 3 * page + 100);
  assert.equal(memory.kind, 'file');
  assert.deepEqual(Buffer.from(memory.buffer), readFileSync(path));
  assert.deepEqual([mappedAt(memory.address)?.permissions, mappedAt(memory.address)?.path], ['r--s', path]);
  assert.deepEqual(Buffer.from(Mapping.bufferAt(memory)), readFileSync(path));
  memory.advise('willneed');
  memory.protect('none');
  memory.protect('read', 3 * page, 100);
  memory.unmap();
});

test('a shared mapping writes the file, a private one does not', deadline, () => {
  const path = fileOf('written', 2 * page);
  const [before = 0] = readFileSync(path);
  const own = Mapping.file(path, { protection: 'read-write', shared: false });
  new Uint8Array(own.buffer)[0] = before + 1;
  assert.equal(readFileSync(path)[0], before);
  const shared = Mapping.file(path, { protection: 'read-write', offset: page, byteLength: 10 });
  assert.equal(shared.byteLength, 10);
  new Uint8Array(shared.buffer)[9] = 77;
  assert.equal(readFileSync(path)[page + 9], 77);
  shared.unmap();
  own.unmap();
});

test('a descriptor stays the caller’s, and its mode counts', deadline, () => {
  const fd = openSync(fileOf('mode', page), 'r');
  const memory = Mapping.file(fd, { populate: true });
  assert.throws(() => Mapping.file(fd, { protection: 'read-write' }), {
    name: 'SystemError',
    errno: 13,
    message: /not open in a way/,
  });
  assert.throws(() => memory.protect('read-write'), { name: 'SystemError', errno: 13, syscall: 'mprotect' });
  Mapping.file(fd, { protection: 'read-write', shared: false }).unmap();
  memory.unmap();
  fstatSync(fd);
  closeSync(fd);
  assert.throws(() => Mapping.file(fd), { name: 'SystemError', errno: 9 });
});

test('a part that the file does not have is refused', deadline, () => {
  const path = fileOf('part', 2 * page);
  const wrong = [
    { offset: 2 * page },
    { offset: 100 },
    { offset: -page },
    { byteLength: 2 * page + 1 },
    { offset: page, byteLength: page + 1 },
    { byteLength: 0 },
    { byteLength: 1.5 },
    { address: 4097n },
  ];
  for (const options of wrong)
    assert.throws(() => Mapping.file(path, options), { name: 'RangeError' }, JSON.stringify(Object.keys(options)));
  assert.throws(() => Mapping.file(fileOf('empty', 0)), { name: 'RangeError', message: /is empty/ });
  assert.throws(() => Mapping.file('/dev/zero'), { name: 'RangeError', message: /give byteLength/ });
  assert.throws(() => Mapping.file(path, { patch: true } as never), {
    name: 'TypeError',
    message: /no option 'patch'/,
  });
});

test('what cannot be mapped is refused for what it is', deadline, () => {
  const before = countDescriptors();
  const pipe = join(folder, 'pipe');
  assert.equal(spawnSync('mkfifo', [pipe]).status, 0);
  for (const [path, kind] of [
    [folder, 'a directory'],
    [pipe, 'a pipe'],
  ] as const) {
    assert.throws(() => Mapping.file(path), {
      name: 'DescriptorError',
      code: 'ERR_PAGEFAULT_WRONG_DESCRIPTOR',
      message: new RegExp(`is ${kind}`),
    });
  }
  assert.throws(() => Mapping.file('/dev/null', { byteLength: page }), { name: 'SystemError', errno: 19 });
  assert.throws(() => Mapping.file(join(folder, 'none')), { name: 'SystemError', errno: 2, syscall: 'open' });
  assert.throws(() => Mapping.file(''), { name: 'TypeError' });
  assert.throws(() => Mapping.file({} as never), { name: 'TypeError' });
  assert.equal(countDescriptors(), before);
});

test('a device of known length is mapped where it can be', deadline, () => {
  const memory = Mapping.file('/dev/zero', { byteLength: 2 * page, protection: 'read-write', shared: false });
  assert.equal(new Uint8Array(memory.buffer)[page], 0);
  memory.unmap();
});

test('two mappings of one memory object are one memory', deadline, () => {
  const memfd = Memfd.create('twice', { byteLength: 4 * page });
  const one = Mapping.memfd(memfd);
  const two = Mapping.memfd(memfd, { offset: page, protection: 'read' });
  const own = Mapping.memfd(memfd, { shared: false });
  memfd.close();
  new Uint8Array(one.buffer)[2 * page] = 8;
  assert.equal(new Uint8Array(two.buffer)[page], 8);
  assert.equal(one.kind, 'memfd');
  assert.equal(two.byteLength, 3 * page);
  new Uint8Array(own.buffer)[2 * page] = 9;
  assert.equal(new Uint8Array(one.buffer)[2 * page], 8);
  for (const memory of [one, two, own]) memory.unmap();
  assert.throws(() => Mapping.memfd(5 as never), { name: 'TypeError', message: /needs a Memfd/ });
});

test('the memory of a file can be placed at an exact address', deadline, () => {
  const reserved = Mapping.anonymous(2 * page, { protection: 'none' });
  const { address } = reserved;
  const path = fileOf('placed', page + 1);
  assert.throws(() => Mapping.file(path, { address }), { name: 'SystemError', errno: 17 });
  reserved.unmap();
  const memory = Mapping.file(path, { address });
  assert.equal(memory.address, address);
  memory.unmap();
});
