/**
 * Where the pages of other processes come from. Nothing of this process is stopped while a child waits for a page, so that a store may be
 * an object that lives here; what `pagefault/stores` names, and a segment, is read through a segment: the kernel copies from its memory
 * straight into the child's, and what is not there yet is loaded without blocking the loop. Main thread or Worker that runs the pager.
 */

import { shown, wrongType } from '../errors/argument.js';
import type { Range } from '../kernel/index.js';
import { accept, isThenable } from '../pager/answer.js';
import type { HowToRead } from '../pager/how.js';
import { Lane, type Place } from '../pager/lane.js';
import type { Segment } from '../segment/index.js';
import type { PageStore, ReadAnswer } from '../stores/contract.js';
import type { StoreRef } from '../stores/ref.js';

/** Bytes to copy, an address range of this process to copy from, or null: a page of zeroes. */
export type Supply = Uint8Array | Range | null;

/** An open source. */
export interface GuestSource {
  /** Bytes; what a region has beyond them reads zero. */
  readonly byteLength: number;
  readonly pageSize: number | undefined;
  /** Bytes at `offset`, in `into` or elsewhere, as many as `into` has. */
  read(offset: number, into: Uint8Array, how: HowToRead): Supply | Promise<Supply>;
  /** After the kernel could not read the range that `read` named: makes it readable until disposed. */
  readonly hold: ((offset: number, byteLength: number) => Promise<Disposable>) | undefined;
  /** The segment that the pages are in, where they come without JavaScript: threads of the core can copy them. */
  readonly native?: Segment | undefined;
  /** Another try may help after a failure. */
  readonly retries: boolean;
  close(): Promise<void>;
}

/** What a store loads at once where nothing says more: the price of a hand-over to the loading thread, shared by that many pages. */
const CHUNK = 64 * 1024;

class SegmentSource implements GuestSource {
  readonly byteLength: number;
  readonly pageSize: number;
  readonly native: Segment | undefined;
  readonly retries = false; // the segment has tried until its own deadline
  readonly #segment: Segment;
  readonly #chunk: number;
  readonly #own: boolean;

  constructor(segment: Segment, chunk: number, own: boolean) {
    this.#segment = segment;
    this.native = segment.isServedByCore ? segment : undefined;
    this.byteLength = segment.byteLength;
    this.pageSize = segment.pageSize;
    this.#chunk = chunk;
    this.#own = own;
  }

  read(offset: number, into: Uint8Array): Supply | Promise<Supply> {
    // Where a segment that was closed has been, something else may be by now.
    if (offset + into.byteLength > this.byteLength || this.#segment.isClosing) return this.#last(offset, into);
    return { address: this.#segment.address + BigInt(offset), byteLength: into.byteLength };
  }

  /** A copy: behind the segment lies other memory of this process. Rejects where the segment is closed. */
  async #last(offset: number, into: Uint8Array): Promise<Supply> {
    const rest = this.byteLength - offset;
    if (rest <= 0) return null;
    const pin = await this.#segment.pin(offset, rest);
    try {
      into.set(pin.bytes);
    } finally {
      pin[Symbol.dispose]();
    }
    into.fill(0, rest);
    return into;
  }

  readonly hold = async (offset: number, byteLength: number): Promise<Disposable> => {
    const begin = Math.floor(offset / this.#chunk) * this.#chunk;
    const end = Math.min(this.byteLength, Math.ceil((offset + byteLength) / this.#chunk) * this.#chunk);
    return await this.#segment.pin(begin, end - begin);
  };

  async close(): Promise<void> {
    if (this.#own) await this.#segment.close();
  }
}

function placeOf({ access }: HowToRead): Place {
  return access === 'ahead' ? 'ahead' : 'demand';
}

class StoreSource implements GuestSource {
  readonly byteLength: number;
  readonly pageSize: number | undefined;
  readonly retries = true;
  readonly hold = undefined;
  readonly native = undefined;
  readonly #store: PageStore;
  readonly #lane: Lane<() => void>;

  constructor(store: PageStore) {
    this.#store = store;
    this.#lane = new Lane(store.concurrency ?? 16);
    this.byteLength = store.byteLength;
    this.pageSize = store.pageSize;
  }

  read(offset: number, into: Uint8Array, how: HowToRead): Supply | Promise<Supply> {
    const wanted = Math.min(into.byteLength, this.byteLength - offset);
    if (wanted <= 0) return null;
    const target = wanted === into.byteLength ? into : into.subarray(0, wanted);
    if (!this.#lane.enter(placeOf(how))) return this.#queued(offset, target, into, how);
    return this.#ask(offset, target, into, how);
  }

  /** With a place taken, which is given back when the store has answered. */
  #ask(offset: number, target: Uint8Array, into: Uint8Array, how: HowToRead): Supply | Promise<Supply> {
    let later = false;
    try {
      const answer = this.#store.read(offset, target, how);
      if (!isThenable(answer)) return take(answer, target, into);
      later = true;
      return Promise.resolve(answer)
        .then((late) => take(late, target, into))
        .finally(() => this.#leave(how));
    } finally {
      if (!later) this.#leave(how);
    }
  }

  #leave(how: HowToRead): void {
    this.#lane.leave(placeOf(how))?.();
  }

  /** As many reads are under way as the store wants at once: demand goes before what is read ahead. */
  #queued(offset: number, target: Uint8Array, into: Uint8Array, how: HowToRead): Promise<Supply> {
    return new Promise((resolve, reject) => {
      const begin = (): void => {
        try {
          resolve(this.#ask(offset, target, into, how));
        } catch (error) {
          reject(error);
        }
      };
      this.#lane.wait(begin, placeOf(how));
    });
  }

  async close(): Promise<void> {
    await this.#store.close?.();
  }
}

function take(answer: ReadAnswer, target: Uint8Array, into: Uint8Array): Supply {
  if (accept(answer, target) < 0) return null;
  if (target !== into) into.fill(0, target.byteLength);
  return into;
}

function isPageStore(store: unknown): store is PageStore {
  const { read, byteLength } = (typeof store === 'object' && store !== null ? store : {}) as Partial<PageStore>;
  return typeof read === 'function' && typeof byteLength === 'number';
}

/** By what it has, because a program with a store of its own need not load segments. */
function isSegment(store: unknown): store is Segment {
  const { pin, address } = (typeof store === 'object' && store !== null ? store : {}) as Partial<Segment>;
  return typeof pin === 'function' && typeof address === 'bigint';
}

/** What `spawnPaged` takes as `store`. */
export type GuestStore = StoreRef | Segment | PageStore;

/** Opens what was given as `store`. A segment, or an object with `read`, stays the caller's own to close. */
export async function openGuestSource(store: GuestStore, faultTimeoutMs: number): Promise<GuestSource> {
  if (isSegment(store)) return new SegmentSource(store, store.pageSize, false);
  if (isPageStore(store)) {
    if (!Number.isSafeInteger(store.byteLength) || store.byteLength <= 0) {
      throw wrongType(`the store's byteLength must be a whole number above 0, not ${shown(store.byteLength)}`);
    }
    return new StoreSource(store);
  }
  const { map } = await import('../segment/index.js');
  // A store that JavaScript reads is asked for what is needed; one that the core reads, for more where a child reads in order.
  const inJavaScript = store.kind === 'custom' || store.kind === 'uds';
  const segment = await map(store, inJavaScript ? { faultTimeoutMs, readahead: 0 } : { faultTimeoutMs });
  const chunk = inJavaScript ? segment.pageSize : Math.max(CHUNK, segment.pageSize);
  return new SegmentSource(segment, chunk, true);
}
