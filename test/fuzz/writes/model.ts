/** What the memory of a segment must hold, and which pages may count as modified. One thread. */

import { type Ledger, OUTSIDE } from './ledger.js';

export class Model {
  readonly ledger: Ledger;
  readonly pageSize: number;
  readonly byteLength: number;
  readonly pages: number;
  readonly bytes: Uint8Array;
  /** When each page was last written, counted in operations; 0: it is surely not modified. */
  readonly writtenAt: Float64Array;
  /** Pages that were discarded while they were pinned: what is written to them goes when they are unpinned. */
  readonly doomed = new Set<number>();
  #now = 0;
  readonly #stored: () => Uint8Array;

  /** `stored` gives all that the store has. */
  constructor(ledger: Ledger, bytes: Uint8Array, stored: () => Uint8Array) {
    this.ledger = ledger;
    this.pageSize = ledger.parts.pageSize;
    this.byteLength = ledger.parts.byteLength;
    this.pages = ledger.pages;
    this.bytes = bytes;
    this.writtenAt = new Float64Array(ledger.pages);
    this.#stored = stored;
  }

  get now(): number {
    return this.#now;
  }

  tick(): number {
    this.#now += 1;
    return this.#now;
  }

  /** Where a page ends in the segment. */
  endOf(page: number): number {
    return Math.min((page + 1) * this.pageSize, this.byteLength);
  }

  pagesOf(offset: number, length: number): { first: number; end: number } {
    return { first: this.ledger.pageOf(offset), end: this.ledger.pageOf(offset + length - 1) + 1 };
  }

  /** Whole pages of a range. */
  wholePages(offset: number, length: number): { first: number; end: number } {
    const end = offset + length === this.byteLength ? this.pages : Math.floor((offset + length) / this.pageSize);
    return { first: Math.ceil(offset / this.pageSize), end };
  }

  /** A range is written, or is about to be. */
  write(offset: number, bytes: Uint8Array): void {
    this.bytes.set(bytes, offset);
    this.touchWritten(offset, bytes.length);
  }

  touchWritten(offset: number, length: number): void {
    const { first, end } = this.pagesOf(offset, length);
    this.writtenAt.fill(this.tick(), first, end);
  }

  /** What the store has of a range of the segment, zero where it has nothing. */
  stored(offset: number, length: number): Uint8Array {
    const { base } = this.ledger.parts;
    const found = new Uint8Array(length);
    const have = Math.max(0, Math.min(length, this.ledger.inStore - offset));
    found.set(this.#stored().subarray(base + offset, base + offset + have));
    return found;
  }

  /** Pages are the store's again. */
  revert(first: number, end: number): void {
    for (let page = first; page < end; page++) {
      const from = page * this.pageSize;
      this.bytes.set(this.stored(from, this.endOf(page) - from), from);
      this.writtenAt[page] = 0;
      this.doomed.delete(page);
    }
  }

  wrong(found: Uint8Array, offset: number): string | undefined {
    const expected = this.bytes.subarray(offset, offset + found.length);
    if (Buffer.compare(found, expected) === 0) return undefined;
    const at = found.findIndex((byte, i) => byte !== expected[i]) + offset;
    const page = this.ledger.pageOf(at);
    const stored = this.stored(at, 1)[0];
    return `byte ${at} (page ${page}, ${at % this.pageSize} in it) is ${found[at - offset]}, not ${this.bytes[at]}; the store has ${stored}`;
  }

  /** With what `dirty()` says: pages in it must have been written, and those that are not must be the store's. */
  wrongDirty(ranges: readonly { offset: number; byteLength: number }[]): string | undefined {
    const dirty = new Uint8Array(this.pages);
    let before = -1;
    for (const { offset, byteLength } of ranges) {
      const { first, end } = this.pagesOf(offset, byteLength);
      if (offset !== first * this.pageSize || offset + byteLength !== this.endOf(end - 1)) {
        return `dirty() has ${byteLength} bytes from ${offset}, which are not whole pages`;
      }
      if (offset <= before) return `dirty() has ${offset} behind ${before}, not merged or not ascending`;
      before = offset + byteLength;
      dirty.fill(1, first, end);
    }
    const stored = this.#stored();
    const { base } = this.ledger.parts;
    for (let page = 0; page < this.pages; page++) {
      if (dirty[page] === 1 && page >= this.ledger.storePages)
        return `page ${page} is dirty, and behind the store's end`;
      if (dirty[page] === 1 && this.writtenAt[page] === 0) return `page ${page} is dirty, and nobody wrote to it`;
      if (dirty[page] === 1 || this.doomed.has(page) || page >= this.ledger.storePages) continue;
      const from = page * this.pageSize;
      const end = Math.min(this.endOf(page), this.ledger.inStore);
      if (Buffer.compare(this.bytes.subarray(from, end), stored.subarray(base + from, base + end)) !== 0) {
        return `page ${page} is not dirty, and differs from the store`;
      }
    }
    return undefined;
  }

  /** The store must have all that was written, and nothing else. */
  wrongStore(): string | undefined {
    const { base } = this.ledger.parts;
    const stored = this.#stored();
    for (let page = 0; page < this.ledger.storePages; page++) {
      if (this.doomed.has(page)) continue;
      const from = page * this.pageSize;
      const end = Math.min(this.endOf(page), this.ledger.inStore);
      const found = stored.subarray(base + from, base + end);
      const expected = this.bytes.subarray(from, end);
      if (Buffer.compare(found, expected) === 0) continue;
      const at = found.findIndex((byte, i) => byte !== expected[i]);
      return `the store has ${found[at]} and not ${expected[at]} at ${from + at} (page ${page}), after all was written`;
    }
    const parts = [stored.subarray(0, base), stored.subarray(base + this.ledger.inStore)];
    if (parts.every((part) => Buffer.alloc(part.length, OUTSIDE).equals(part))) return undefined;
    return "bytes of the store were written that are not the segment's";
  }
}
