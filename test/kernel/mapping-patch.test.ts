import assert from 'node:assert/strict';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { Mapping, Memfd, pageSize } from 'pagefault/kernel';
import { mappedAt } from '../helpers/proc.js';

const page = pageSize();
const deadline = { timeout: 60_000 };
const folder = mkdtempSync(join(tmpdir(), 'pagefault-patch-'));
after(() => rmSync(folder, { recursive: true }));

function objectOf(pages: number): Memfd {
  const memfd = Memfd.create('patch', { byteLength: pages * page });
  for (let i = 0; i < pages; i++) memfd.write(i * page, new Uint8Array(page).fill(i + 1));
  return memfd;
}

/** First byte of each page. */
function firsts(memory: Mapping): number[] {
  const bytes = new Uint8Array(memory.buffer);
  return Array.from({ length: bytes.length / page }, (_, i) => bytes[i * page] ?? -1);
}

test('a patch shows the memory object in its place, later ones shadow earlier ones', deadline, () => {
  const memory = Mapping.anonymous(8 * page);
  const bytes = new Uint8Array(memory.buffer).fill(100);
  const memfd = objectOf(4);
  memory.patch(2 * page, memfd);
  assert.deepEqual(firsts(memory), [100, 100, 1, 2, 3, 4, 100, 100]);
  memory.patch(3 * page, memfd, { sourceOffset: 3 * page, byteLength: page });
  assert.deepEqual(firsts(memory), [100, 100, 1, 4, 3, 4, 100, 100]);
  bytes[3 * page] = 55;
  assert.equal(bytes[5 * page], 55, 'shared: one page in two places');
  memory.patch(0, memfd, { byteLength: page, shared: false, protection: 'read-write' });
  bytes[0] = 66;
  assert.equal(bytes[2 * page], 1, 'a private patch keeps what is written to itself');
  memory.patch(2 * page, 'anonymous', { byteLength: 4 * page });
  assert.deepEqual(firsts(memory), [66, 100, 0, 0, 0, 0, 100, 100]);
  memory.patch(0, 'anonymous');
  assert.deepEqual(firsts(memory), [0, 0, 0, 0, 0, 0, 0, 0]);
  // What lies at an address is anybody's once it is free, so that something with a name is unmapped.
  memory.patch(0, memfd);
  memory.patch(4 * page, memfd);
  assert.match(readFileSync('/proc/self/maps', 'utf8'), /memfd:patch/);
  memory.unmap();
  assert.doesNotMatch(readFileSync('/proc/self/maps', 'utf8'), /memfd:patch/);
  memfd.close();
});

test('a patch may be a file, by its descriptor, read only', deadline, () => {
  const path = join(folder, 'file');
  writeFileSync(path, new Uint8Array(page + 10).fill(9));
  const fd = openSync(path, 'r');
  const memory = Mapping.anonymous(4 * page, { protection: 'read' });
  memory.patch(page, { fd });
  closeSync(fd);
  assert.deepEqual(firsts(memory), [0, 9, 9, 0]);
  assert.equal(mappedAt(memory.address + BigInt(page))?.permissions, 'r--s');
  memory.unmap();
  assert.equal(readFileSync(path)[0], 9);
});

test('a patch has the protection of the mapping, or its own', deadline, () => {
  const memory = Mapping.anonymous(4 * page);
  memory.protect('read');
  memory.patch(0, 'anonymous', { byteLength: page });
  memory.patch(page, 'anonymous', { byteLength: page, protection: 'none' });
  const shown = [0, 1, 2].map((i) => mappedAt(memory.address + BigInt(i * page))?.permissions);
  assert.deepEqual(shown, ['r--p', '---p', 'r--p']);
  memory.unmap();
});

test('a patch outside of the mapping or its source is refused, and nothing has changed', deadline, () => {
  const memory = Mapping.anonymous(4 * page);
  new Uint8Array(memory.buffer).fill(7);
  const memfd = objectOf(3);
  const odd = Memfd.create('odd', { byteLength: page + 1 });
  const wrong: [number, Memfd | 'anonymous', object][] = [
    [2 * page, memfd, {}],
    [4 * page, memfd, {}],
    [-page, memfd, {}],
    [1, memfd, {}],
    [0, memfd, { byteLength: 4 * page }],
    [0, memfd, { sourceOffset: 3 * page }],
    [0, memfd, { sourceOffset: 1 }],
    [0, memfd, { byteLength: 100 }],
    [0, odd, { byteLength: page + 1 }],
    [3 * page, odd, {}],
    [0, 'anonymous', { byteLength: 5 * page }],
    [0, 'anonymous', { byteLength: 0 }],
  ];
  for (const [offset, source, options] of wrong) {
    assert.throws(
      () => memory.patch(offset, source, options),
      { name: 'RangeError' },
      `${offset} ${JSON.stringify(options)}`,
    );
  }
  const senseless = [5, null, {}, { fd: 'x' }, 'memfd'];
  for (const source of senseless) assert.throws(() => memory.patch(0, source as never), { name: 'TypeError' });
  assert.throws(() => memory.patch(0, 'anonymous', { sourceOffset: 0 }), {
    name: 'TypeError',
    message: /no sourceOffset/,
  });
  assert.throws(() => memory.patch(0, { fd: 9999 }), { name: 'SystemError', errno: 9 });
  assert.throws(() => memory.patch(0, memfd, { address: 1n } as never), {
    name: 'TypeError',
    message: /no option 'address'/,
  });
  memfd.addSeals(['future-write']);
  assert.throws(() => memory.patch(0, memfd), { name: 'SystemError', errno: 1, message: /seal/ });
  assert.deepEqual(firsts(memory), [7, 7, 7, 7]);
  memory.unmap();
  memfd.close();
  odd.close();
});

test('many patches come and go', deadline, () => {
  const memory = Mapping.anonymous(256 * page);
  const memfd = objectOf(16);
  const expected = new Array<number>(256).fill(0);
  for (let round = 0; round < 2000; round++) {
    const at = (round * 37) % 256;
    const from = (round * 5) % 16;
    if (round % 3 === 0) memory.patch(at * page, 'anonymous', { byteLength: page });
    else memory.patch(at * page, memfd, { sourceOffset: from * page, byteLength: page });
    expected[at] = round % 3 === 0 ? 0 : from + 1;
  }
  assert.deepEqual(firsts(memory), expected);
  memory.unmap();
  memfd.close();
});
