/** A segment: an address range of this process whose pages come from a store. Belongs to the thread that made it. */

import { createHash } from 'node:crypto';
import type { Readable, Writable } from 'node:stream';
import { shown, wrongType } from '../errors/argument.js';
import { checkKeys } from '../options/keys.js';
import type { StoreRef } from '../stores/ref.js';
import { runAttempt } from './attempt.js';
import type { Backend } from './backend.js';
import { closeRegion } from './closing.js';
import type { PageErrorEvent, StallEvent } from './events.js';
import { origin, type SegmentHandle } from './handle.js';
import {
  checkJobOptions,
  type FlushOptions,
  type JobOptions,
  type LoadOptions,
  type PinOptions,
  runJob,
} from './jobs.js';
import { patchMemory } from './patch.js';
import { Pin } from './pin.js';
import { checkCount, checkRange, type Range } from './range.js';
import type { Region } from './region.js';
import { type MemoryParts, SegmentMemory } from './segment-memory.js';
import type { SharedMemory } from './shared-memory.js';
import { readStats, type SegmentStats } from './stats.js';
import { storeIdentity } from './store-identity.js';
import { readStream, type SegmentReadStreamOptions, type SegmentWriteStreamOptions, writeStream } from './streams.js';
import { type Descriptor, type TransferOptions, transferBytes } from './transfer.js';
import { makeView, type TypedArrayConstructor } from './view.js';
import { keepWhileListened, linger, watch } from './watch.js';
import type { SegmentWorkingSet } from './working-set.js';
import { dirtyRanges, flushRange, writeBytes } from './writing.js';

/** What `map` and `open` know of a segment. */
export interface SegmentParts extends MemoryParts {
  region: Region;
  address: bigint;
  backend: Backend;
  backendReason: string;
  workingSet?: SegmentWorkingSet | undefined;
  /** Where its bytes come from; only `map` knows. */
  origin?: { readonly store: StoreRef; readonly offset: number };
  /** To be called once the region has ended, by the thread that mapped it. */
  ended: (() => Promise<void>) | undefined;
}

export interface CloseOptions {
  /**
   * True: what was written since the last flush is lost.
   * @default false
   */
  discard?: boolean;
}

/**
 * Pages of a store behind an ordinary buffer. Made by `map` and `open`.
 *
 * Events: 'pageerror' ({@link PageErrorEvent}) when a page was given up, 'stall' ({@link StallEvent}) when one is late, 'handlerlost' when another signal
 * handler had replaced ours. As long as it has listeners it is not collected, like a MessagePort: close it, or remove them. Every method throws a `ClosedError` once the segment is closed.
 */
export class Segment extends EventTarget implements AsyncDisposable {
  /** Bytes of the segment. */
  readonly byteLength: number;
  /** Bytes of a page. */
  readonly pageSize: number;
  /** Where the memory begins in this process. */
  readonly address: bigint;
  /** Where the segment begins in `buffer`; 0 except in memory that exists and does not begin at a page. */
  readonly bufferOffset: number;
  /** True where the segment was mapped with `writable: true`. */
  readonly writable: boolean;
  /** How pages get in. */
  readonly backend: Backend;
  /** Why this backend, and how it sees what is written, in a sentence. */
  readonly backendReason: string;
  /** True where a system call that is handed a missing page gets it; elsewhere it gets EFAULT. */
  readonly kernelFaults: boolean;
  /** What errors, reports and /proc/self/maps call it. */
  readonly name: string;
  /** Where it was mapped with `workingSet`, on the thread that mapped it. */
  readonly workingSet: SegmentWorkingSet | undefined;
  readonly #memory: SegmentMemory;
  readonly #region: Region;
  readonly #ended: (() => Promise<void>) | undefined;
  readonly #origin: SegmentParts['origin'];
  #closing: Promise<void> | undefined;
  /** Aborted by `close({ discard: true })`. */
  #discard: AbortController | undefined;

  constructor(parts: SegmentParts) {
    super();
    const { region } = parts;
    this.byteLength = region.byteLength;
    this.pageSize = region.pageSize;
    this.name = region.name;
    this.writable = region.writable;
    this.address = parts.address;
    this.bufferOffset = parts.bufferOffset;
    this.backend = parts.backend;
    this.kernelFaults = parts.backend === 'thread';
    this.backendReason = parts.backendReason;
    this.workingSet = parts.workingSet;
    this.#origin = parts.origin;
    this.#region = region;
    this.#ended = parts.ended;
    watch(region, this, this.#ended);
    this.#memory = new SegmentMemory(parts, region, this);
  }

  /**
   * The memory. A touch of a page that is not there reads it from the store. May be longer than `byteLength` where it is
   * shared. A plain ArrayBuffer is made when it is first asked for: V8 counts its length as if it were memory in use, and
   * answers a long one with a garbage collection (4 to 7 ms, measured by `npm run bench -- --only open-time`). Memory that exists (`into`) is the buffer that
   * was given, of which the segment has `byteLength` bytes from `bufferOffset`; of a WebAssembly.Memory the one that it has now.
   */
  get buffer(): ArrayBuffer | SharedArrayBuffer {
    return this.#memory.buffer;
  }

  override addEventListener(...args: Parameters<EventTarget['addEventListener']>): void {
    super.addEventListener(...args);
    keepWhileListened(this.#region, this);
  }

  /** True from when `close` was called: its addresses may be somebody else's soon. @internal */
  get isClosing(): boolean {
    return this.#closing !== undefined;
  }

  /** The core's number of it. @internal */
  get coreId(): number {
    this.#region.check();
    return this.#region.id;
  }

  /** Its pages come without JavaScript. False, too, of a segment that came by `open`: nothing is known of its store. @internal */
  get isServedByCore(): boolean {
    const kind = this.#origin?.store.kind;
    return kind === 'file' || kind === 'memory' || kind === 'zero';
  }

  /** What tells its bytes from any others: of what `map` was given. Of a segment that came by `open`, only its name. @internal */
  async identity(): Promise<string> {
    const { name, byteLength } = this;
    if (this.#origin === undefined) return createHash('sha256').update(`${name}\0${byteLength}`).digest('hex');
    return await storeIdentity(this.#origin.store, this.#origin.offset);
  }

  /** For `open` in another thread. Only shared segments have one. */
  get handle(): SegmentHandle {
    this.#region.check();
    const { buffer, bufferOffset, name, byteLength, pageSize, address, writable, backend, backendReason } = this;
    if (!(buffer instanceof SharedArrayBuffer)) {
      throw wrongType(
        `segment "${name}" has no handle, because an ArrayBuffer cannot be shared; map it with shared: true`,
      );
    }
    const segment = this.#region.id;
    const where = { buffer, bufferOffset, memory: this.#memory.wasm };
    return {
      pagefault: 1,
      ...origin(),
      segment,
      name,
      byteLength,
      pageSize,
      address,
      writable,
      backend,
      backendReason,
      ...where,
    };
  }

  /**
   * A typed array over the segment: `length` elements from `byteOffset`, by default as many as fit.
   *
   * @example
   * const vectors = segment.view(Float32Array);
   */
  view<T>(type: TypedArrayConstructor<T>, byteOffset?: number, length?: number): T {
    this.#region.check();
    return makeView(type, this.buffer, { bufferOffset: this.bufferOffset, whole: this.byteLength }, byteOffset, length);
  }

  /** A copy of a range. Throws a PageError where a page cannot be had; never ends the process. */
  read(offset: number, byteLength: number): Uint8Array {
    checkCount('read(): offset', offset, 0);
    checkCount('read(): byteLength', byteLength, 0);
    const range = checkRange('read()', this.byteLength, offset, byteLength);
    this.#region.check();
    this.#memory.existing('read()', range, true);
    const into = new Uint8Array(byteLength);
    if (byteLength > 0) this.#region.call((core, id) => core.regionRead(id, offset, into));
    return into;
  }

  /**
   * Copies `bytes` to `offset`. Throws a PageError where a page cannot be had, or the store's `onWrite` refuses; what lies
   * before that page is written then. Never ends the process. On a read-only segment: a TypeError,
   * `ERR_PAGEFAULT_READ_ONLY`.
   */
  write(offset: number, bytes: Uint8Array): void {
    writeBytes(this.#region, this.#memory, offset, bytes);
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
    const checked = checkJobOptions('load()', options, ['signal', 'onProgress']);
    const wanted = checkRange('load()', this.byteLength, offset, byteLength);
    this.#region.check();
    await this.#load(this.#memory.existing('load()', wanted, byteLength !== undefined), false, checked);
  }

  /** Loads a range and keeps it in memory until the pin is released. */
  async pin(offset: number, byteLength: number, options: PinOptions = {}): Promise<Pin> {
    const checked = checkJobOptions('pin()', options, ['signal']);
    checkCount('pin(): offset', offset, 0);
    checkCount('pin(): byteLength', byteLength, 0);
    const range = checkRange('pin()', this.byteLength, offset, byteLength);
    this.#region.check();
    await this.#load(this.#memory.existing('pin()', range, true), true, checked);
    this.#region.check();
    return new Pin(this.#region, range, this.buffer, this.bufferOffset);
  }

  async #load(range: Range, pinned: boolean, options: JobOptions): Promise<void> {
    this.#region.check();
    options.signal?.throwIfAborted();
    const { offset, byteLength } = range;
    if (byteLength === 0) return;
    await runJob(this.#region, options, (core, id, done, progress) =>
      core.regionLoad(id, offset, byteLength, pinned, done, progress),
    );
  }

  /**
   * Writes a range to a file, a pipe or a socket, and resolves to the number of bytes, which is all of them. In chunks, on threads of the core: it needs room for one page in
   * the budget, no thread of Node's pool, and blocks nothing. Works on a duplicate of the descriptor, so that closing it meanwhile does no harm, and does not sync.
   *
   * Rejects with a PageError where a page cannot be had, a SystemError where the descriptor fails (`errno`), or the signal's reason. What lies before the
   * error's `offset` is written then.
   *
   * @example
   * await using file = await fs.open('copy.bin', 'w');
   * await segment.writeTo(file, { offset: 0, byteLength: 1_000_000 });
   */
  async writeTo(target: Descriptor, options: TransferOptions = {}): Promise<number> {
    return await transferBytes('writeTo()', false, this.#region, this.#memory, target, options);
  }

  /**
   * Fills a range from a file, a pipe or a socket, as `write` would, and resolves to the number of bytes: fewer than the range has only where the file ends. As
   * `writeTo`, and on a read-only segment a TypeError. What was read and could not be kept is read again by whoever reads next, except where a
   * segment is closed meanwhile.
   */
  async readFrom(source: Descriptor, options: TransferOptions = {}): Promise<number> {
    return await transferBytes('readFrom()', true, this.#region, this.#memory, source, options);
  }

  /**
   * The range as a stream of copies, for `pipeline`, `for await`, HTTP and all else that takes a Readable. A page that cannot be had destroys it with a PageError,
   * `close` with a ClosedError.
   *
   * @example
   * await pipeline(segment.createReadStream(), createGzip(), response);
   */
  createReadStream(options: SegmentReadStreamOptions = {}): Readable {
    return readStream(this.#region, this.#memory, this, options);
  }

  /** A stream that writes into the range, as `write` would, without blocking the event loop. More than fits is a RangeError. Finished is not flushed. */
  createWriteStream(options: SegmentWriteStreamOptions = {}): Writable {
    return writeStream(this.#region, this.#memory, this, options);
  }

  /**
   * Drops the whole, unpinned pages of a range that are not modified; the next touch reads them again. Returns the bytes
   * freed. Of the whole segment: shared memory that was laid over it is taken off, where none of its pages is modified or pinned.
   */
  release(offset?: number, byteLength?: number): number {
    const range = checkRange('release()', this.byteLength, offset, byteLength);
    return this.#region.call((core, id) => core.regionRelease(id, range.offset, range.byteLength));
  }

  /**
   * The store has changed: the whole pages of a range are read again on the next touch, pinned ones once they are
   * unpinned. Modified pages stay as they are: `discard` them first to see what the store has.
   */
  invalidate(offset?: number, byteLength?: number): void {
    const range = checkRange('invalidate()', this.byteLength, offset, byteLength);
    this.#region.call((core, id) => core.regionInvalidate(id, range.offset, range.byteLength));
  }

  /**
   * What was written since the last flush: whole pages, neighbours in one, clipped to the segment. Never too little: a
   * page of a flush that failed is in it.
   */
  dirty(offset?: number, byteLength?: number): Range[] {
    return dirtyRanges(this.#region, checkRange('dirty()', this.byteLength, offset, byteLength));
  }

  /**
   * Writes the modified pages that touch a range to the store, and resolves when they are durable. What is written
   * meanwhile is modified still. Rejects with a PageError (`ERR_PAGEFAULT_STORE_WRITE`, `ERR_PAGEFAULT_STORE_SYNC`):
   * nothing is lost then, and flush may be called again. One flush runs at a time; the next one waits.
   */
  async flush(offset?: number, byteLength?: number, options: FlushOptions = {}): Promise<void> {
    const checked = checkJobOptions('flush()', options, ['signal', 'onProgress']);
    await flushRange(this.#region, checkRange('flush()', this.byteLength, offset, byteLength), checked);
  }

  /** Forgets what was written to the whole pages of a range since the last flush; the next touch reads what the store has. */
  discard(offset?: number, byteLength?: number): void {
    const range = checkRange('discard()', this.byteLength, offset, byteLength);
    this.#region.call((core, id) => this.writable && core.regionDiscard(id, range.offset, range.byteLength));
  }

  /** The next write to each whole page of a range is seen again: a store's `onWrite` is called. What is modified stays so. */
  resetWriteDetection(offset?: number, byteLength?: number): void {
    const range = checkRange('resetWriteDetection()', this.byteLength, offset, byteLength);
    this.#region.call(
      (core, id) => this.writable && core.regionResetWriteDetection(id, range.offset, range.byteLength),
    );
  }

  /**
   * Lays shared memory over the segment's pages from `offset`, a multiple of `pageSize`, for all threads that have it. Each page of it is filled once, by the store
   * of whichever segment touches it first, and is then seen by every segment and process that has the memory. A later patch shadows
   * an earlier one. Waits for pages there that are being loaded; those that are modified (`ERR_PAGEFAULT_DIRTY`) or pinned (`ERR_PAGEFAULT_PINNED`) are refused.
   * `release()` of the whole segment takes patches off. Linux 5.14, writable 6.4; with backend 'mprotect' any.
   *
   * @example
   * const hot = sharedMemory('1MiB');
   * a.patch(0, hot);
   * b.patch(0, hot); // what `a` reads there is read once, and `b` has it
   */
  patch(offset: number, memory: SharedMemory): void {
    patchMemory(this.#region, this.#memory, offset, memory);
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
   * Ends the segment: an ArrayBuffer is detached and its memory given back; shared memory and memory that exists (`into`) fail touches
   * once every thread has closed it. What is in flight rejects with a ClosedError. Idempotent. Rejects with a StoreError
   * if the store's own `close` failed, with a WorkingSetError if what was touched cannot be recorded; the segment is closed all the same.
   *
   * A writable segment is flushed first. If that fails, `close` rejects with the PageError, and the segment is open and
   * usable as before: call `close` again, or `close({ discard: true })`, which does not flush.
   */
  close(options: CloseOptions = {}): Promise<void> {
    try {
      checkKeys('close()', options, ['discard']);
      const { discard = false } = options;
      if (typeof discard !== 'boolean')
        throw wrongType(`close(): discard must be true or false, not ${shown(discard)}`);
      this.#discard ??= new AbortController();
      if (discard) this.#discard.abort();
      this.#closing ??= this.#close(this.#discard.signal);
      return this.#closing;
    } catch (error) {
      return Promise.reject(error);
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(discard: AbortSignal): Promise<void> {
    let ended: boolean;
    const touched = this.workingSet?.lastTouched();
    try {
      ended = await closeRegion(this.#region, this.#memory, discard);
    } catch (error) {
      this.#closing = undefined;
      throw error;
    }
    try {
      await this.workingSet?.saveTouched(touched);
    } finally {
      if (this.#ended !== undefined && ended) await this.#ended();
      else if (this.#ended !== undefined) linger(this.#region.id, this.#ended);
    }
  }
}
