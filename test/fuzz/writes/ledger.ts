/**
 * What a store of the fuzz holds, how it fails, and what it was asked: plain data over SharedArrayBuffers, known to the store in its Worker, to the model
 * and to every thread.
 */

export interface LedgerParts {
  pageSize: number;
  /** Of the segment. */
  byteLength: number;
  /** Where the segment begins in the store. */
  base: number;
  storeLength: number;
  bytes: SharedArrayBuffer;
  words: SharedArrayBuffer;
}

/** Bytes of the store that are not the segment's. */
export const OUTSIDE = 0xee;

/** Words in front of the pages'. A call fails so many times more, and says that this is permanent. */
export const WORD = {
  failWrites: 0,
  failSyncs: 1,
  failOnWrites: 2,
  permanentWrites: 3,
  permanentSyncs: 4,
  permanentOnWrites: 5,
  reads: 6,
  writes: 7,
  bytesWritten: 8,
  pagesWritten: 9,
  syncs: 10,
  inFlight: 11,
  /** Not 0: a rule of the contract was broken; see `BROKEN`. */
  broken: 12,
  /** Writes that have ended, and how many of these had when the last successful sync began. */
  ended: 13,
  synced: 14,
  head: 16,
} as const;
export type Word = Exclude<keyof typeof WORD, 'head'>;

export const BROKEN = [
  'none',
  'a page was written while an older write of it was under way',
  'a write that does not begin at a page',
  'a write that does not end at a page or the end',
  'onWrite of something that is not a page',
  'a page was read while a write of it was under way',
] as const;

/** What a store has at first: no two pages have the same, and the period is no multiple of a page. */
const contents = Uint8Array.from({ length: 65_521 }, (_, at) => 1 + ((at * 7 + (at >>> 12) * 13) % 255));

export class Ledger {
  readonly parts: LedgerParts;
  readonly pages: number;
  /** Bytes of the segment that the store has. */
  readonly inStore: number;
  /** Pages of the segment of which the store has a byte. */
  readonly storePages: number;
  readonly bytes: Uint8Array;
  readonly #words: Int32Array;

  constructor(parts: LedgerParts) {
    this.parts = parts;
    this.pages = Math.ceil(parts.byteLength / parts.pageSize);
    this.inStore = Math.min(parts.byteLength, parts.storeLength - parts.base);
    this.storePages = Math.ceil(this.inStore / parts.pageSize);
    this.bytes = new Uint8Array(parts.bytes);
    this.#words = new Int32Array(parts.words);
  }

  static make(given: Omit<LedgerParts, 'bytes' | 'words'>, seed: number): Ledger {
    const pages = Math.ceil(given.byteLength / given.pageSize);
    const words = new SharedArrayBuffer(4 * (WORD.head + 3 * pages));
    const ledger = new Ledger({ ...given, bytes: new SharedArrayBuffer(given.storeLength), words });
    ledger.bytes.fill(OUTSIDE);
    for (let at = 0; at < ledger.inStore; ) {
      const part = contents.subarray(seed, seed + Math.min(contents.length - seed, ledger.inStore - at));
      ledger.bytes.set(part, given.base + at);
      at += part.length;
    }
    return ledger;
  }

  get(word: Word): number {
    return Atomics.load(this.#words, WORD[word]);
  }

  set(word: Word, value: number): void {
    Atomics.store(this.#words, WORD[word], value);
  }

  add(word: Word, value: number): number {
    return Atomics.add(this.#words, WORD[word], value);
  }

  /** Takes one of what is left of a count. */
  takeOne(word: Word): boolean {
    for (let left = this.get(word); left > 0; left = this.get(word)) {
      if (Atomics.compareExchange(this.#words, WORD[word], left, left - 1) === left) return true;
    }
    return false;
  }

  /** Reads of the page fail: 0 never, -1 for good, or so many times. */
  failingRead(page: number): number {
    return Atomics.load(this.#words, WORD.head + page);
  }

  setFailingRead(page: number, how: number): void {
    Atomics.store(this.#words, WORD.head + page, how);
  }

  /** How often `onWrite` agreed to a write to the page. */
  agreed(page: number): number {
    return Atomics.load(this.#words, WORD.head + this.pages + page);
  }

  agree(page: number): void {
    Atomics.add(this.#words, WORD.head + this.pages + page, 1);
  }

  /** Writes of the page that are under way, changed by `by`; as it was before. */
  writing(page: number, by: number): number {
    return Atomics.add(this.#words, WORD.head + 2 * this.pages + page, by);
  }

  heal(): void {
    for (const word of ['failWrites', 'failSyncs', 'failOnWrites'] as const) this.set(word, 0);
    for (let page = 0; page < this.pages; page++) this.setFailingRead(page, 0);
  }

  break(what: (typeof BROKEN)[number]): void {
    this.set('broken', BROKEN.indexOf(what));
  }

  pageOf(offset: number): number {
    return Math.floor(offset / this.parts.pageSize);
  }
}
