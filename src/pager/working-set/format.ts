/**
 * The file of a working set, version 1. All numbers are little-endian. Any thread.
 *
 *     0  u8[8]   89 50 46 57 53 0D 0A 1A: "PFWS" between bytes that do not survive a transfer as text
 *     8  u32     version: 1
 *    12  u32     bytes of a run: 24
 *    16  u64     bytes of the snapshot
 *    24  u32     bytes of a page
 *    28  u32     recordings that it unites
 *    32  u8[32]  identity of the snapshot
 *    64  u64     number of runs
 *    72  u64     pages in all of them
 *    80  u64     pages left out
 *    88  u64     0
 *    96  u8[32]  SHA-256 of all other bytes of the file
 *   128  runs, in order of first touch:
 *          0  u32  number of the first page      8  u64  µs until it was first touched
 *          4  u32  number of pages              16  u32  µs from then until the last one was
 *                                               20  u32  recordings in which they were seen
 */

import { createHash } from 'node:crypto';
import { WorkingSetError, type WorkingSetErrorCode } from '../../errors/working-set-error.js';
import { countRunPages, MOST_TOUCHED, type PageRuns, pageCountOf, type WorkingSet } from './working-set.js';

const MAGIC = Buffer.from([0x89, 0x50, 0x46, 0x57, 0x53, 0x0d, 0x0a, 0x1a]);
const VERSION = 1;
/** Bytes before the runs. */
export const HEADER: number = 128;
const RUN = 24;
const DIGEST = 96;
const LARGEST_PAGE = 2 ** 30;
const MOST_PAGES = 2 ** 32;

/** Of a working set whose pages all lie apart. */
export const LARGEST_FILE: number = HEADER + RUN * MOST_TOUCHED;

function digestOf(bytes: Buffer): Buffer {
  return createHash('sha256').update(bytes.subarray(0, DIGEST)).update(bytes.subarray(HEADER)).digest();
}

/** The bytes of the file. */
export function encodeWorkingSet(set: WorkingSet): Buffer {
  const { runs } = set;
  const { length } = runs.first;
  const bytes = Buffer.alloc(HEADER + RUN * length);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(VERSION, 8);
  bytes.writeUInt32LE(RUN, 12);
  bytes.writeBigUInt64LE(BigInt(set.byteLength), 16);
  bytes.writeUInt32LE(set.pageSize, 24);
  bytes.writeUInt32LE(set.recordings, 28);
  bytes.write(set.identity, 32, 32, 'hex');
  bytes.writeBigUInt64LE(BigInt(length), 64);
  bytes.writeBigUInt64LE(BigInt(countRunPages(runs)), 72);
  bytes.writeBigUInt64LE(BigInt(set.dropped), 80);
  for (let i = 0, at = HEADER; i < length; i++, at += RUN) {
    bytes.writeUInt32LE(runs.first[i] ?? 0, at);
    bytes.writeUInt32LE(runs.count[i] ?? 0, at + 4);
    bytes.writeBigUInt64LE(BigInt(Math.round(runs.atUs[i] ?? 0)), at + 8);
    bytes.writeUInt32LE(runs.spanUs[i] ?? 0, at + 16);
    bytes.writeUInt32LE(runs.seen[i] ?? 0, at + 20);
  }
  digestOf(bytes).copy(bytes, DIGEST);
  return bytes;
}

/** What a file turns out not to be. */
class Reader {
  readonly #bytes: Buffer;
  readonly #path: string;

  constructor(bytes: Buffer, path: string) {
    this.#bytes = bytes;
    this.#path = path;
  }

  refuse(sentence: string, code: WorkingSetErrorCode = 'ERR_PAGEFAULT_WORKING_SET'): never {
    throw new WorkingSetError(code, `${this.#path} ${sentence}`, { path: this.#path });
  }

  damaged(sentence: string): never {
    this.refuse(`is a working set that is damaged: ${sentence}`, 'ERR_PAGEFAULT_WORKING_SET_DAMAGED');
  }

  u32(at: number): number {
    return this.#bytes.readUInt32LE(at);
  }

  /** Of a number that cannot be more than 2^53 - 1 where it makes sense. */
  u64(at: number, what: string): number {
    const value = Number(this.#bytes.readBigUInt64LE(at));
    return Number.isSafeInteger(value) ? value : this.damaged(`${what} is ${value}`);
  }

  /** The file is all there, and as it was written. */
  checkWhole(): void {
    const { length } = this.#bytes;
    const known = Math.min(length, MAGIC.length);
    if (MAGIC.compare(this.#bytes, 0, known, 0, known) !== 0) this.refuse('is not a working set');
    if (length < HEADER) this.damaged(`it is cut off after ${length} bytes`);
    const version = this.u32(8);
    if (version !== VERSION) {
      this.refuse(`is a working set of version ${version}, and this release knows version ${VERSION}`);
    }
    if (this.u32(12) !== RUN) this.damaged(`a run has ${this.u32(12)} bytes, not ${RUN}`);
    const expected = HEADER + RUN * this.u64(64, 'the number of runs');
    if (length < expected) this.damaged(`it is cut off: it has ${length} of ${expected} bytes`);
    if (length > expected) this.damaged(`it has ${length} bytes, ${length - expected} more than it says`);
    if (this.#bytes.compare(digestOf(this.#bytes), 0, 32, DIGEST, HEADER) !== 0) {
      this.damaged('its checksum is not that of its bytes');
    }
  }

  runs(length: number): PageRuns {
    const column = (at: number): Uint32Array => Uint32Array.from({ length }, (_, i) => this.u32(HEADER + RUN * i + at));
    return {
      first: column(0),
      count: column(4),
      atUs: Float64Array.from({ length }, (_, i) => this.u64(HEADER + RUN * i + 8, 'a time')),
      spanUs: column(16),
      seen: column(20),
    };
  }
}

/** Every page lies in the snapshot, and in one run. */
function checkRuns(reader: Reader, runs: PageRuns, pageCount: number, recordings: number): void {
  const order = Uint32Array.from(runs.first.keys()).sort((a, b) => (runs.first[a] ?? 0) - (runs.first[b] ?? 0));
  let end = 0;
  for (const i of order) {
    const first = runs.first[i] ?? 0;
    const count = runs.count[i] ?? 0;
    const seen = runs.seen[i] ?? 0;
    if (count === 0) reader.damaged(`run ${i} has no pages`);
    if (first < end) reader.damaged(`page ${first} is in two runs`);
    end = first + count;
    if (end > pageCount) {
      reader.damaged(`page ${Math.max(first, pageCount)} is out of range: the snapshot has ${pageCount} pages`);
    }
    if (seen === 0 || seen > recordings) reader.damaged(`run ${i} was seen ${seen} times in ${recordings} recordings`);
  }
}

/**
 * What the bytes say. Throws a WorkingSetError: `ERR_PAGEFAULT_WORKING_SET` where they are none, or of another version;
 * `ERR_PAGEFAULT_WORKING_SET_DAMAGED` where they are cut off, were changed or make no sense.
 */
export function decodeWorkingSet(bytes: Buffer, path: string): WorkingSet {
  const reader = new Reader(bytes, path);
  reader.checkWhole();
  const byteLength = reader.u64(16, "the snapshot's length");
  const pageSize = reader.u32(24);
  const recordings = reader.u32(28);
  const identity = bytes.toString('hex', 32, 64);
  if (pageSize < 4096 || pageSize > LARGEST_PAGE || (pageSize & (pageSize - 1)) !== 0) {
    reader.damaged(`a page has ${pageSize} bytes`);
  }
  if (recordings === 0) reader.damaged('it unites no recording');
  const pageCount = pageCountOf({ byteLength, pageSize });
  if (pageCount === 0 || pageCount > MOST_PAGES) reader.damaged(`the snapshot has ${pageCount} pages`);
  const runs = reader.runs(reader.u64(64, 'the number of runs'));
  checkRuns(reader, runs, pageCount, recordings);
  const pages = reader.u64(72, 'the number of pages');
  if (pages !== countRunPages(runs)) reader.damaged(`it says ${pages} pages and has ${countRunPages(runs)}`);
  if (pages > MOST_TOUCHED) reader.damaged(`it has ${pages} pages, and ${MOST_TOUCHED} are the most`);
  return { identity, byteLength, pageSize, recordings, dropped: reader.u64(80, 'pages left out'), runs, path };
}
