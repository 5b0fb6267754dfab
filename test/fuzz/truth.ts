/**
 * What a store holds, known to every thread: the bytes themselves and, for each page, how often it was changed. Plain data
 * over SharedArrayBuffers, so that it travels to the Workers and into the store.
 *
 * A page has a version. A change first raises `begun`, then writes the store, then invalidates the page, then raises `done`. So
 * whoever reads `done` before a touch and `begun` after it knows which versions the touch may have seen.
 */

export interface TruthParts {
  seed: number;
  /** Of the segment. */
  byteLength: number;
  pageSize: number;
  /** Where the segment begins in the store. */
  base: number;
  /** Bytes of the store. */
  storeLength: number;
  /** The store is all zeroes whatever happens. */
  zero: boolean;
  /** Every fourth version of a page is all zeroes. */
  nulls: boolean;
  bytes: SharedArrayBuffer;
  words: SharedArrayBuffer;
}

/** Words in front of the pages'. */
const HEAD = 2;
const READS = 0;
const TWICE = 1;

/** How a page of a custom store fails; above 0: so many throws, then it answers. */
export const FAIL = { never: 0, throws: -1, short: -2, long: -3, nonsense: -4 } as const;

export function truthParts(given: Omit<TruthParts, 'bytes' | 'words'>): TruthParts {
  const pages = Math.ceil(given.byteLength / given.pageSize);
  return {
    ...given,
    bytes: new SharedArrayBuffer(given.storeLength),
    words: new SharedArrayBuffer(4 * (HEAD + 3 * pages)),
  };
}

export class Truth {
  readonly parts: TruthParts;
  readonly pages: number;
  readonly pageSize: number;
  readonly byteLength: number;
  /** The store's contents now. */
  readonly bytes: Uint8Array;
  readonly #words: Int32Array;

  constructor(parts: TruthParts) {
    this.parts = parts;
    this.pageSize = parts.pageSize;
    this.byteLength = parts.byteLength;
    this.pages = Math.ceil(parts.byteLength / parts.pageSize);
    this.bytes = new Uint8Array(parts.bytes);
    this.#words = new Int32Array(parts.words);
  }

  /** The byte at an offset of the segment in a version of its page. */
  byte(offset: number, version: number): number {
    const { base, storeLength, zero, nulls, seed } = this.parts;
    const at = offset + base;
    if (at >= storeLength || zero || (nulls && version % 4 === 3)) return 0;
    return 1 + ((at * 7 + (at >>> 12) * 13 + version * 101 + seed) % 255);
  }

  /** Fills the store; before and behind the segment with bytes that nobody must see. */
  fill(): void {
    if (this.parts.zero) return;
    this.bytes.fill(0xee);
    for (let page = 0; page < this.pages; page++) this.write(page);
  }

  /** Writes the newest version of a page into the store. Where it lies: for those who keep a copy. */
  write(page: number): { first: number; end: number } {
    const { base, storeLength, nulls, seed } = this.parts;
    const version = this.begun(page);
    const first = Math.min(base + page * this.pageSize, storeLength);
    const end = Math.min(first + this.pageSize, base + this.byteLength, storeLength);
    const { bytes } = this;
    if (nulls && version % 4 === 3) bytes.fill(0, first, end);
    else
      for (let at = first; at < end; at++) bytes[at] = 1 + ((at * 7 + (at >>> 12) * 13 + version * 101 + seed) % 255);
    return { first, end };
  }

  pageOf(offset: number): number {
    return Math.floor(offset / this.pageSize);
  }

  begun(page: number): number {
    return Atomics.load(this.#words, HEAD + page);
  }

  done(page: number): number {
    return Atomics.load(this.#words, HEAD + this.pages + page);
  }

  begin(page: number): void {
    Atomics.add(this.#words, HEAD + page, 1);
  }

  end(page: number): void {
    Atomics.store(this.#words, HEAD + this.pages + page, this.begun(page));
  }

  failing(page: number): number {
    return Atomics.load(this.#words, HEAD + 2 * this.pages + page);
  }

  setFailing(page: number, how: number): void {
    Atomics.store(this.#words, HEAD + 2 * this.pages + page, how);
  }

  /** One throw less to come. */
  failedOnce(page: number): void {
    Atomics.sub(this.#words, HEAD + 2 * this.pages + page, 1);
  }

  /** Reads that the store was asked for, and those of a page that was being read already. */
  get storeReads(): number {
    return Atomics.load(this.#words, READS);
  }

  get readTwice(): number {
    return Atomics.load(this.#words, TWICE);
  }

  countRead(twice: boolean): void {
    Atomics.add(this.#words, READS, 1);
    if (twice) Atomics.add(this.#words, TWICE, 1);
  }

  /** Versions of the pages of a range that no touch from now on may be older than. */
  oldest(offset: number, length: number): number[] {
    const versions = [];
    for (let page = this.pageOf(offset); page * this.pageSize < offset + length; page++) versions.push(this.done(page));
    return versions;
  }

  /** True when the bytes are what the store has at this moment. */
  #isNow(bytes: Uint8Array, offset: number): boolean {
    const { base, storeLength } = this.parts;
    const have = Math.max(0, Math.min(bytes.length, storeLength - base - offset));
    const from = Math.min(base + offset, storeLength);
    if (Buffer.compare(bytes.subarray(0, have), this.bytes.subarray(from, from + have)) !== 0) return false;
    return bytes.subarray(have).every((byte) => byte === 0);
  }

  /** Says where bytes that were read are not of a version from `oldest` to the newest begun; undefined where all are. */
  wrong(bytes: Uint8Array, offset: number, oldest: readonly number[]): string | undefined {
    if (this.#isNow(bytes, offset)) return undefined;
    const first = this.pageOf(offset);
    for (let i = 0; i < bytes.length; i++) {
      const page = this.pageOf(offset + i);
      const from = oldest[page - first] ?? 0;
      const to = this.begun(page);
      let known = false;
      for (let version = from; !known && version <= to; version++) known = bytes[i] === this.byte(offset + i, version);
      if (known) continue;
      const older = Array.from({ length: from }, (_, version) => version).filter(
        (version) => bytes[i] === this.byte(offset + i, version),
      );
      const what =
        older.length > 0 ? `what version ${older.join(' or ')} had` : bytes[i] === 0 ? 'a zero' : 'no version';
      return `byte ${offset + i} (page ${page}, ${(offset + i) % this.pageSize} in it) is ${bytes[i]}, which is ${what}; it must be of version ${from} to ${to}: ${this.byte(offset + i, to)}`;
    }
    return undefined;
  }
}
