/** An open store of the pager. Made and used in its Worker only. */

import type { PageStore } from '../stores/contract.js';
import { Lane } from './lane.js';
import type { Order } from './order.js';
import type { Part } from './protocol.js';
import type { Write } from './write.js';

export class OpenedStore {
  readonly number: number;
  readonly store: PageStore;
  /** Bytes that the store had when it was opened. */
  readonly byteLength: number;
  /** Where the segment's part begins in the store. */
  readonly base: number;
  /** Where it ends. */
  readonly end: number;
  /** Of the segment: buffers are whole pages, though the last read is shorter. */
  readonly pageSize: number;
  readonly lane: Lane<Order>;
  /** Writes that the store has not ended, be they given up or not. */
  readonly writing: Set<Write> = new Set();
  closed = false;

  constructor(number: number, store: PageStore, part: Part, systemPageSize: number) {
    this.number = number;
    this.store = store;
    this.byteLength = store.byteLength;
    this.base = part.offset;
    this.end = Math.min(this.byteLength, part.offset + (part.byteLength ?? this.byteLength));
    this.pageSize = part.pageSize ?? store.pageSize ?? systemPageSize;
    this.lane = new Lane(store.concurrency ?? 16);
  }

  /** Bytes of the whole pages that `length` bytes lie in. */
  room(length: number): number {
    return length <= this.pageSize ? this.pageSize : Math.ceil(length / this.pageSize) * this.pageSize;
  }

  /** How many of `length` bytes from `start` the segment's part of the store has. Throws if that is none. */
  clip(start: number, length: number): number {
    const wanted = Math.min(length, this.end - start);
    if (wanted <= 0) throw new RangeError(`offset ${start} is past the end of the store at ${this.end}`);
    return wanted;
  }
}
