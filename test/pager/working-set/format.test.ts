/** The file format: what is written is read, and what is not so is refused, each with its sentence. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { test } from 'node:test';
import { WorkingSetError } from 'pagefault';
import {
  countRunPages,
  decodeWorkingSet,
  encodeWorkingSet,
  mergeWorkingSets,
  pageCountOf,
  type WorkingSet,
} from '#dist/pager/working-set/index.js';
import { SNAPSHOT, setOf } from '../../helpers/working-sets.js';

const HEADER = 128;
const SET = mergeWorkingSets([setOf([1, 2, 3, 999, 17]), setOf([17, 5, 1])]);

/** Puts in the checksum that the bytes have. */
function sealed(bytes: Buffer): Buffer {
  createHash('sha256').update(bytes.subarray(0, 96)).update(bytes.subarray(HEADER)).digest().copy(bytes, 96);
  return bytes;
}

function changed(change: (bytes: Buffer) => void): Buffer {
  const bytes = encodeWorkingSet(SET);
  change(bytes);
  return sealed(bytes);
}

function failure(bytes: Buffer): WorkingSetError {
  try {
    decodeWorkingSet(bytes, 'vm.ws');
  } catch (error) {
    assert.ok(error instanceof WorkingSetError, String(error));
    assert.equal(error.path, 'vm.ws');
    return error;
  }
  return assert.fail('it was taken');
}

test('what is written is read', () => {
  for (const set of [SET, setOf([]), setOf([999]), { ...SET, dropped: 12 }]) {
    assert.deepEqual(decodeWorkingSet(encodeWorkingSet(set), 'vm.ws'), { ...set, path: 'vm.ws' });
  }
});

test('the bytes of version 1 stay as they are', () => {
  const bytes = encodeWorkingSet({ ...setOf([258, 259], 7), dropped: 3 });
  const header = `89504657530d0a1a 01000000 18000000 fb7f3e0000000000 00100000 01000000 ${'ab'.repeat(32)}
    0100000000000000 0200000000000000 0300000000000000 0000000000000000`;
  assert.equal(bytes.toString('hex', 0, 96), header.replace(/\s/g, ''));
  assert.equal(bytes.toString('hex', HEADER), '02010000020000000700000000000000e803000001000000');
  assert.deepEqual(bytes, sealed(Buffer.from(bytes)));
});

test('a file that is cut off anywhere is refused as damaged', () => {
  const bytes = encodeWorkingSet(SET);
  for (let length = 0; length < bytes.length; length++) {
    const { code, message } = failure(bytes.subarray(0, length));
    assert.equal(code, 'ERR_PAGEFAULT_WORKING_SET_DAMAGED');
    assert.match(message, /^vm\.ws is a working set that is damaged: it is cut off/);
  }
});

test('a file of which any one bit was changed is refused', () => {
  for (let bit = 0; bit < 8 * encodeWorkingSet(SET).length; bit++) {
    const bytes = encodeWorkingSet(SET);
    bytes[bit >> 3] = (bytes[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    failure(bytes);
  }
});

const WRONG: [string, (bytes: Buffer) => void, RegExp][] = [
  [
    'another version',
    (bytes) => bytes.writeUInt32LE(2, 8),
    /^vm\.ws is a working set of version 2, and this release knows version 1$/,
  ],
  ['something else', (bytes) => bytes.write('SQLite format 3'), /^vm\.ws is not a working set$/],
  ['another length of runs', (bytes) => bytes.writeUInt32LE(32, 12), /damaged: a run has 32 bytes, not 24$/],
  ['no recording', (bytes) => bytes.writeUInt32LE(0, 28), /damaged: it unites no recording$/],
  ['a page size that is none', (bytes) => bytes.writeUInt32LE(5000, 24), /damaged: a page has 5000 bytes$/],
  ['a page size of nothing', (bytes) => bytes.writeUInt32LE(0, 24), /damaged: a page has 0 bytes$/],
  ['an empty snapshot', (bytes) => bytes.writeBigUInt64LE(0n, 16), /damaged: the snapshot has 0 pages$/],
  [
    'a snapshot of 2^60 bytes',
    (bytes) => bytes.writeBigUInt64LE(1n << 60n, 16),
    /damaged: the snapshot's length is 1152921504606847000$/,
  ],
  [
    'a snapshot of too many pages',
    (bytes) => bytes.writeBigUInt64LE(1n << 52n, 16),
    /damaged: the snapshot has 1099511627776 pages$/,
  ],
  [
    'a page out of range',
    (bytes) => bytes.writeUInt32LE(1000, HEADER),
    /damaged: page 1000 is out of range: the snapshot has 1000 pages$/,
  ],
  [
    'a run that leads out of range',
    (bytes) => bytes.writeUInt32LE(4_294_967_295, HEADER + 4 + 24 * 3),
    /damaged: page 1000 is out of range/,
  ],
  ['a run without pages', (bytes) => bytes.writeUInt32LE(0, HEADER + 4), /damaged: run 0 has no pages$/],
  ['a page twice', (bytes) => bytes.writeUInt32LE(3, HEADER + 24 * 1), /damaged: page 3 is in two runs$/],
  [
    'a run that nobody saw',
    (bytes) => bytes.writeUInt32LE(0, HEADER + 20),
    /damaged: run 0 was seen 0 times in 2 recordings$/,
  ],
  [
    'a run that was seen too often',
    (bytes) => bytes.writeUInt32LE(3, HEADER + 20),
    /damaged: run 0 was seen 3 times in 2 recordings$/,
  ],
  ['another number of pages', (bytes) => bytes.writeBigUInt64LE(99n, 72), /damaged: it says 99 pages and has 6$/],
  [
    'more runs than there are',
    (bytes) => bytes.writeBigUInt64LE(1n << 40n, 64),
    /damaged: it is cut off: it has \d+ of 26388279066752 bytes$/,
  ],
  [
    'a time that is none',
    (bytes) => bytes.writeBigUInt64LE(1n << 63n, HEADER + 8),
    /damaged: a time is 9223372036854776000$/,
  ],
];

for (const [what, change, sentence] of WRONG) {
  test(`a working set with ${what} is refused in one sentence`, () => {
    const { code, message } = failure(changed(change));
    assert.match(message, sentence);
    assert.equal(code.endsWith('DAMAGED'), message.includes('damaged'));
  });
}

test('a working set of more pages than make sense is refused before there is memory for them', () => {
  const runs = { ...setOf([0]).runs, count: Uint32Array.of(2 ** 32 - 1) };
  const bytes = encodeWorkingSet({ ...setOf([0]), byteLength: 2 ** 44, runs });
  assert.match(failure(bytes).message, /damaged: it has 4294967295 pages, and 16777216 are the most$/);
});

test('bytes behind the end are refused', () => {
  const bytes = sealed(Buffer.concat([encodeWorkingSet(SET), Buffer.alloc(3)]));
  assert.match(failure(bytes).message, /damaged: it has \d+ bytes, 3 more than it says$/);
});

/** What is taken makes sense, whatever its bytes were. */
function checkTaken(set: WorkingSet): void {
  const pages = pageCountOf(set);
  for (const [i, first] of set.runs.first.entries()) assert.ok(first + (set.runs.count[i] ?? 0) <= pages);
  assert.ok(countRunPages(set.runs) <= pages);
}

test('whatever the bytes are, they are refused or make sense', () => {
  const rounds = Number(process.env['PAGEFAULT_WORKING_SETS'] ?? 3000);
  const original = encodeWorkingSet(SET);
  let state = 12345;
  const random = (below: number): number => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  let taken = 0;
  for (let round = 0; round < rounds; round++) {
    const bytes = Buffer.from(original.subarray(0, random(8) === 0 ? random(original.length) : original.length));
    for (let i = random(4); i >= 0 && bytes.length > 0; i--) bytes[8 + random(bytes.length - 8)] = random(256);
    if (bytes.length >= HEADER) sealed(bytes);
    try {
      checkTaken(decodeWorkingSet(bytes, 'vm.ws'));
      taken++;
    } catch (error) {
      assert.ok(error instanceof WorkingSetError, String(error));
    }
  }
  assert.ok(taken > 0 && taken < rounds, `${taken} of ${rounds} were taken`);
  assert.equal(decodeWorkingSet(encodeWorkingSet(SET), 'vm.ws').identity, SNAPSHOT.identity);
});
