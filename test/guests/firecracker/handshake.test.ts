/** What a handshake may be, in the words of every release, and the sentence for each that it may not. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { HandshakeReader, MOST_BYTES, Refused } from '#dist/guests/firecracker/reader.js';
import { checkAgainst, type Handshake, parseHandshake } from '#dist/guests/firecracker/regions.js';

const PAGE = 4096;
const BASE = 140_000_000_000_000 - (140_000_000_000_000 % PAGE);
const parse = (value: unknown): Handshake => parseHandshake(JSON.stringify(value), PAGE);

function region(more: Record<string, unknown> = {}): Record<string, unknown> {
  return { base_host_virt_addr: BASE, size: 16 * PAGE, offset: 0, ...more };
}

test('every era says the same in its own words', () => {
  const regions = [{ address: BigInt(BASE), byteLength: 16 * PAGE, offset: 0 }];
  assert.deepEqual(parse([region()]), { regions, pageSize: PAGE, era: '1.1' });
  assert.deepEqual(parse([region({ page_size_kib: PAGE })]), { regions, pageSize: PAGE, era: '1.7' });
  const both = region({ page_size: PAGE, page_size_kib: PAGE });
  assert.deepEqual(parse([both]), { regions, pageSize: PAGE, era: '1.12' });
  assert.deepEqual(parse([region({ page_size: PAGE })]), { regions, pageSize: PAGE, era: '1.12' });
  const secretive = { ...both, gpa_start: 0, is_guest_memfd: false, of_the_future: [{}] };
  assert.deepEqual(parse([secretive]).regions, regions);
});

test('huge pages are those of page_size, and of page_size_kib, which is in bytes', () => {
  const huge = { base_host_virt_addr: 2 ** 40, size: 2 ** 24, offset: 0 };
  assert.equal(parse([{ ...huge, page_size: 2 ** 21 }]).pageSize, 2 ** 21);
  assert.equal(parse([{ ...huge, page_size_kib: 2 ** 21 }]).pageSize, 2 ** 21);
});

test('all layouts of regions are understood, in any order', () => {
  const sizes = [3, 1, 8, 4];
  let offset = 0;
  const layout = sizes.map((pages, index) => {
    const own = region({ base_host_virt_addr: BASE + (10 - index) * 2 ** 30, size: pages * PAGE, offset });
    offset += pages * PAGE;
    return own;
  });
  assert.equal(parse(layout).regions.length, 4);
  checkAgainst(parse(layout), 16 * PAGE);
  checkAgainst(parse(layout.toReversed()), 16 * PAGE);
});

const refusals: [string, unknown, RegExp][] = [
  ['no region', [], /names no region/],
  ['too many regions', Array.from({ length: 1025 }, () => region()), /names 1025 regions, more than 1024/],
  ['a region that is none', [7], /region 0 is 7, not an object/],
  ['a region that is null', [region(), null], /region 1 is null/],
  ['no address', [{ size: PAGE, offset: 0 }], /region 0 has no base_host_virt_addr/],
  ['no size', [{ base_host_virt_addr: BASE, offset: 0 }], /region 0 has no size/],
  ['no offset', [{ base_host_virt_addr: BASE, size: PAGE }], /region 0 has no offset/],
  ['a size of 0', [region({ size: 0 })], /size of region 0 is 0, not a whole number from 1/],
  ['a negative size', [region({ size: -PAGE })], /size of region 0 is -4096/],
  ['half a byte', [region({ size: 4096.5 })], /size of region 0 is 4096\.5/],
  ['an address that is a string', [region({ base_host_virt_addr: '1' })], /base_host_virt_addr of region 0 is '1'/],
  ['an address above all', [region({ base_host_virt_addr: 2 ** 63 })], /is 9223372036854776000, not a whole number/],
  ['an address without memory', [region({ base_host_virt_addr: 0 })], /base_host_virt_addr of region 0 is 0/],
  ['a page size of 0', [region({ page_size: 0 })], /page_size of region 0 is 0/],
  ['an odd page size', [region({ page_size: 12345 })], /pages have 12345 bytes, and only 4096 and 2097152/],
  ['pages of 1 GiB', [region({ page_size: 2 ** 30 })], /pages have 1073741824 bytes/],
  [
    'two page sizes',
    [region(), region({ page_size: 2 ** 21 })],
    /region 0 has pages of 4096 bytes, region 1 of 2097152/,
  ],
  [
    'an unaligned address',
    [region({ base_host_virt_addr: BASE + 8 })],
    /region 0 is not aligned to pages of 4096 bytes/,
  ],
  ['an unaligned size', [region({ size: PAGE + 1 })], /not aligned .* 4097 bytes at/],
  ['an unaligned offset', [region({ offset: 512 })], /not aligned .* from byte 512/],
  ['huge pages unaligned', [region({ page_size: 2 ** 21 })], /not aligned to pages of 2097152 bytes/],
  [
    'a region past the end',
    [region({ size: 2 ** 52 }), region({ base_host_virt_addr: 2 ** 52, offset: 2 ** 52, size: 2 ** 52 })],
    /region 1 ends where no memory can be/,
  ],
  [
    'more than addresses',
    [region({ size: Number.MAX_SAFE_INTEGER - 4095, offset: 2 ** 52 })],
    /ends where no memory can be/,
  ],
  [
    'regions that overlap',
    [region(), region({ base_host_virt_addr: BASE + 8 * PAGE, offset: 16 * PAGE })],
    /regions 0 and 1 overlap at 0x7f54/,
  ],
  ['the same region twice', [region(), region()], /regions 0 and 1 overlap/],
  ['secret memory', [region({ is_guest_memfd: true })], /secret \(guest_memfd\), which cannot be served yet/],
];

for (const [name, value, sentence] of refusals) {
  test(`refused: ${name}`, () => {
    assert.throws(
      () => parse(value),
      (error) => error instanceof Refused && sentence.test(error.message),
    );
  });
}

test('regions that do not sum up to the memory file are refused', () => {
  const of = (...places: [number, number][]): Handshake =>
    parse(
      places.map(([offset, pages], i) =>
        region({ base_host_virt_addr: BASE + i * 2 ** 30, offset: offset * PAGE, size: pages * PAGE }),
      ),
    );
  checkAgainst(of([0, 8], [8, 8]), 16 * PAGE);
  assert.throws(
    () => checkAgainst(of([0, 8], [9, 8]), 17 * PAGE),
    /bytes 32768 to 36864 of the memory file are in them not at all/,
  );
  assert.throws(
    () => checkAgainst(of([0, 8], [4, 8]), 12 * PAGE),
    /bytes 16384 to 32768 of the memory file are in them twice/,
  );
  assert.throws(() => checkAgainst(of([1, 8]), 9 * PAGE), /not at all/);
  assert.throws(() => checkAgainst(of([0, 8]), 7 * PAGE), /32 KiB, the memory file 28 KiB: the file is too short/);
  assert.throws(() => checkAgainst(of([0, 8]), 9 * PAGE), /another VM's/);
});

/** All handshakes of these pieces. Descriptors are numbers here, and those below 100 userfaultfds. */
function readAll(pieces: readonly (readonly [string, readonly number[]])[]): [string, number[]][] {
  const reader = new HandshakeReader();
  const found: [string, number[]][] = [];
  for (const [text, fds] of pieces) {
    reader.push(Buffer.from(text), fds);
    for (let next = reader.next((fd) => fd < 100); next !== undefined; next = reader.next((fd) => fd < 100)) {
      found.push([next.text, next.fds]);
    }
  }
  assert.deepEqual(reader.pending, { byteLength: 0, fds: 0 });
  return found;
}

test('a handshake is found wherever the stream is cut, its descriptors with its first byte', () => {
  const text = JSON.stringify([region({ note: 'a ] and a \\" and a }' }), region({ deeper: [[{}]] })]);
  for (let cut = 1; cut < text.length; cut++) {
    assert.deepEqual(
      readAll([
        [text.slice(0, cut), [5]],
        [text.slice(cut), []],
      ]),
      [[text, [5]]],
    );
  }
  assert.deepEqual(readAll([...text].map((letter, i) => [letter, i === 0 ? [5] : []] as const)), [[text, [5]]]);
});

test('several that come at once each have their own descriptors', () => {
  assert.deepEqual(
    readAll([
      ['[1]', [1]],
      [' \n[2][3]\n', [2, 102, 3, 103]],
    ]),
    [
      ['[1]', [1]],
      ['[2]', [2, 102]],
      ['[3]', [3, 103]],
    ],
  );
  assert.deepEqual(readAll([['[1][2]', [1, 2]]]), [
    ['[1]', [1]],
    ['[2]', [2]],
  ]);
  assert.deepEqual(readAll([['[1]', [1, 2, 103]]]), [['[1]', [1, 2, 103]]]);
  assert.deepEqual(readAll([['[1]', []]]), [['[1]', []]]);
});

const streams: [string, string | Uint8Array, number[], RegExp][] = [
  ['an object', '{"base":1}', [1], /begins with '{"base":1}', not with a JSON array/],
  ['words', 'exitless_apf:2', [], /begins with 'exitless_apf:2'/],
  ['bytes', Uint8Array.of(0x16, 3, 1), [], /begins with byte 0x16/],
  ['a number', '17', [], /begins with '17'/],
  ['more than any needs', `[${' '.repeat(MOST_BYTES)}`, [1], /more than 65536 bytes and no end/],
  ['a long one', `[${' '.repeat(MOST_BYTES)}]`, [1], /more than 65536 bytes/],
  ['no text', Uint8Array.of(0x5b, 0xff, 0x5d), [1], /no UTF-8 text/],
  ['many descriptors', '[', Array.from({ length: 17 }, (_, i) => i), /17 descriptors came, and one is expected/],
];
for (const [name, bytes, fds, sentence] of streams) {
  test(`a stream is refused that has ${name}`, () => {
    const reader = new HandshakeReader();
    assert.throws(() => {
      reader.push(Buffer.from(bytes as string), fds);
      reader.next(() => true);
    }, sentence);
    reader.drain();
  });
}

test('text that only looks like JSON is refused', () => {
  for (const text of [
    '[}',
    '[,]',
    '[1,]',
    '[{"a":}]',
    "['a']",
    '[NaN]',
    '[01]',
    '[{"size":1e999,"base_host_virt_addr":1,"offset":0}]',
  ]) {
    assert.throws(() => parseHandshake(text, PAGE), Refused, text);
  }
});

test('descriptors beyond the handshakes are refused', () => {
  const reader = new HandshakeReader();
  reader.push(Buffer.from('[1][2]'), [1, 2, 3]);
  assert.equal(reader.next((fd) => fd < 100)?.fds.length, 1);
  assert.deepEqual(reader.next((fd) => fd < 100)?.fds, [2, 3]);
  reader.push(Buffer.from(' '), [4]);
  assert.throws(() => reader.next(() => true), /1 descriptors more came than handshakes/);
  assert.deepEqual(reader.drain(), [4]);
});
