/** One read of one page, and the open store it asks. Made and used in the pager's Worker only. */

import type { PageStore, ReadHow } from '../stores/contract.js';
import { Lane } from './lane.js';
import type { Part } from './protocol.js';

const ACCESS = ['read', 'write', 'ahead'] as const;

/** What `dispatch` says for a page that is read ahead. */
export const AHEAD = 2;

/** The third argument of a store's `read`. Most stores never look at the signal, so it is made when it is asked for. */
export class How implements ReadHow {
  readonly access: 'read' | 'write' | 'ahead';
  #controller: AbortController | undefined;
  #aborted: Error | undefined;

  constructor(access: number) {
    this.access = ACCESS[access] ?? 'read';
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#aborted !== undefined) this.#controller.abort(this.#aborted);
    }
    return this.#controller.signal;
  }

  abort(reason: Error): void {
    this.#aborted = reason;
    this.#controller?.abort(reason);
  }
}

/** An open store. */
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
  readonly lane: Lane<Read>;
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
}

/** A read that did not end within `dispatch`: it waits for a place, for the store's promise, or for its next try. */
export class Read {
  readonly slot: number;
  readonly from: OpenedStore;
  /** In the store. */
  readonly offset: number;
  readonly wanted: number;
  readonly access: number;
  /** In ms of `performance.now()`. */
  readonly deadline: number;
  readonly timeoutMs: number;
  /** Of the try that is under way. */
  how: How | undefined;
  /** True while a promise of the store is awaited: the store may write into the page's buffer. */
  awaited = false;
  /** True while a place in the store's lane is taken. */
  placed = false;
  /** True once the core has its answer; what the store says after that is of no use. */
  over = false;
  failed = 0;
  lastError: unknown;

  constructor(slot: number, from: OpenedStore, offset: number, wanted: number, access: number, timeoutMs: number) {
    this.slot = slot;
    this.from = from;
    this.offset = offset;
    this.wanted = wanted;
    this.access = access;
    this.timeoutMs = timeoutMs;
    this.deadline = performance.now() + timeoutMs;
  }
}
