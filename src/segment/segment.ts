/** A segment: an address range of this process whose pages come from a store. Belongs to the thread that made it. */

import { wrongType } from '../errors/argument.js';
import { ClosedError } from '../errors/closed-error.js';
import { checkKeys } from '../options/keys.js';
import { runAttempt } from './attempt.js';
import type { Backend } from './backend.js';
import type { PageErrorEvent } from './events.js';
import type { SegmentHandle } from './handle.js';
import { checkLoadOptions, type LoadOptions, type PinOptions, runJob } from './jobs.js';
import { Pin } from './pin.js';
import { checkCount, checkRange } from './range.js';
import type { Region } from './region.js';
import { readStats, type SegmentStats } from './stats.js';
import { makeView, type TypedArrayConstructor } from './view.js';
import { keepWith, linger, unwatch, watch } from './watch.js';

/** What `map` and `open` know of a segment. */
export interface SegmentParts {
  region: Region;
  /** The memory, or what makes an ArrayBuffer of it when it is first asked for. */
  buffer: SharedArrayBuffer | (() => ArrayBuffer);
  address: bigint;
  backend: Backend;
  backendReason: string;
  /** To be called once the region has ended, by the thread that mapped it. */
  ended: (() => Promise<void>) | undefined;
}

export interface CloseOptions {
  /** Has no effect in this release: a read-only segment has nothing to write. */
  discard?: boolean;
}

/**
 * Pages of a store behind an ordinary buffer. Made by `map` and `open`.
 *
 * Events: 'pageerror' ({@link PageErrorEvent}) when a page was given up, 'handlerlost' when another signal handler had
 * replaced ours. Every method throws a `ClosedError` once the segment is closed.
 */
export class Segment extends EventTarget implements AsyncDisposable {
  /** Bytes of the segment. */
  readonly byteLength: number;
  /** Bytes of a page. */
  readonly pageSize: number;
  /** Where the memory begins in this process. */
  readonly address: bigint;
  /** How pages get in. */
  readonly backend: Backend;
  /** Why this backend, in a sentence. */
  readonly backendReason: string;
  /** What errors, reports and /proc/self/maps call it. */
  readonly name: string;
  #buffer: ArrayBuffer | SharedArrayBuffer | undefined;
  readonly #makeBuffer: (() => ArrayBuffer) | undefined;
  readonly #region: Region;
  readonly #ended: (() => Promise<void>) | undefined;
  #closing: Promise<void> | undefined;

  constructor(parts: SegmentParts) {
    super();
    const { region } = parts;
    if (typeof parts.buffer === 'function') this.#makeBuffer = parts.buffer;
    else this.#buffer = parts.buffer;
    this.byteLength = region.byteLength;
    this.pageSize = region.pageSize;
    this.name = region.name;
    this.address = parts.address;
    this.backend = parts.backend;
    this.backendReason = parts.backendReason;
    this.#region = region;
    this.#ended = parts.ended;
    watch(region, this, this.#ended);
    if (this.#buffer !== undefined) keepWith(this.#buffer, this);
  }

  /**
   * The memory. A touch of a page that is not there reads it from the store. May be longer than `byteLength` where it is
   * shared. A plain ArrayBuffer is made when it is first asked for: V8 counts its length as if it were memory in use, and
   * answers a long one with a garbage collection (4 to 7 ms, measured by `npm run bench -- --only open-time`).
   */
  get buffer(): ArrayBuffer | SharedArrayBuffer {
    if (this.#buffer === undefined) {
      this.#region.check();
      const made = (this.#makeBuffer as () => ArrayBuffer)();
      keepWith(made, this);
      this.#buffer = made;
    }
    return this.#buffer;
  }

  /** True from when `close` was called: its addresses may be somebody else's soon. @internal */
  get isClosing(): boolean {
    return this.#closing !== undefined;
  }

  /** For `open` in another thread. Only shared segments have one. */
  get handle(): SegmentHandle {
    this.#region.check();
    const { buffer, name, byteLength, pageSize, address, backend, backendReason } = this;
    if (!(buffer instanceof SharedArrayBuffer)) {
      throw wrongType(
        `segment "${name}" has no handle, because an ArrayBuffer cannot be shared; map it with shared: true`,
      );
    }
    const segment = this.#region.id;
    return { pagefault: 1, segment, name, byteLength, pageSize, address, backend, backendReason, buffer };
  }

  /**
   * A typed array over the segment: `length` elements from `byteOffset`, by default as many as fit.
   *
   * @example
   * const vectors = segment.view(Float32Array);
   */
  view<T>(type: TypedArrayConstructor<T>, byteOffset?: number, length?: number): T {
    this.#region.check();
    return makeView(type, this.buffer, this.byteLength, byteOffset, length);
  }

  /** A copy of a range. Throws a PageError where a page cannot be had; never ends the process. */
  read(offset: number, byteLength: number): Uint8Array {
    checkCount('read(): offset', offset, 0);
    checkCount('read(): byteLength', byteLength, 0);
    checkRange('read()', this.byteLength, offset, byteLength);
    this.#region.check();
    const into = new Uint8Array(byteLength);
    if (byteLength > 0) this.#region.call((core, id) => core.regionRead(id, offset, into));
    return into;
  }

  /**
   * Calls `fn`, which may touch any segment. If a page could not be had, throws a PageError after `fn`, whatever `fn`
   * returned; the touch read zeroes. `fn` must be synchronous.
   */
  attempt<R>(fn: () => R): R {
    return runAttempt(this.#region, fn);
  }

  /** Loads a range without blocking the event loop, and heals pages that had failed. Rejects with a PageError. */
  async load(offset?: number, byteLength?: number, options: LoadOptions = {}): Promise<void> {
    const checked = checkLoadOptions('load()', options, ['signal', 'onProgress']);
    const range = checkRange('load()', this.byteLength, offset, byteLength);
    this.#region.check();
    if (range.byteLength > 0) await runJob(this.#region, range, false, checked);
    else checked.signal?.throwIfAborted();
  }

  /** Loads a range and keeps it in memory until the pin is released. */
  async pin(offset: number, byteLength: number, options: PinOptions = {}): Promise<Pin> {
    const checked = checkLoadOptions('pin()', options, ['signal']);
    checkCount('pin(): offset', offset, 0);
    checkCount('pin(): byteLength', byteLength, 0);
    const range = checkRange('pin()', this.byteLength, offset, byteLength);
    this.#region.check();
    if (range.byteLength > 0) await runJob(this.#region, range, true, checked);
    else checked.signal?.throwIfAborted();
    this.#region.check();
    return new Pin(this.#region, range, this.buffer);
  }

  /** Drops the whole, unpinned pages of a range; the next touch reads them again. Returns the bytes freed. */
  release(offset?: number, byteLength?: number): number {
    const range = checkRange('release()', this.byteLength, offset, byteLength);
    return this.#region.call((core, id) => core.regionRelease(id, range.offset, range.byteLength));
  }

  /** The store has changed: the whole pages of a range are read again on the next touch, pinned ones once they are unpinned. */
  invalidate(offset?: number, byteLength?: number): void {
    const range = checkRange('invalidate()', this.byteLength, offset, byteLength);
    this.#region.call((core, id) => core.regionInvalidate(id, range.offset, range.byteLength));
  }

  /** One byte a page, for tools that draw them: the state in the low three bits, 0x80 where the page is pinned. */
  pages(first = 0, count?: number): Uint8Array {
    const total = Math.ceil(this.byteLength / this.pageSize);
    const range = checkRange('pages()', total, first, count);
    const out = new Uint8Array(range.byteLength);
    this.#region.call((core, id) => {
      if (out.length > 0) core.regionStates(id, range.offset, out);
    });
    return out;
  }

  /** Plain numbers, one consistent snapshot. */
  stats(): SegmentStats {
    return readStats(this.#region);
  }

  /**
   * Ends the segment: an ArrayBuffer is detached and its memory given back, a shared one fails touches of missing pages
   * once every thread has closed it. What is in flight rejects with a ClosedError. Idempotent. Rejects with a StoreError
   * if the store's own `close` failed; the segment is closed all the same.
   */
  close(options: CloseOptions = {}): Promise<void> {
    try {
      checkKeys('close()', options, ['discard']);
    } catch (error) {
      return Promise.reject(error);
    }
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    const region = this.#region;
    const plain = this.#buffer instanceof SharedArrayBuffer ? undefined : this.#buffer;
    let ended = true;
    try {
      ended = region.call((core, id) => core.regionClose(id, plain, false));
    } catch (error) {
      if (!(error instanceof ClosedError)) throw error; // it has ended already: its thread did
    }
    region.close();
    unwatch(region);
    if (this.#ended === undefined) return;
    if (ended) await this.#ended();
    else linger(region.id, this.#ended);
  }
}
