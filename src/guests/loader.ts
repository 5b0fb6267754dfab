/**
 * Brings pages of a region: asks the source, puts the answer into the child's memory, tries again, gives up. The pager's thread.
 *
 *     read ──▶ bytes ──▶ UFFDIO_COPY ──▶ present (protected) or open        ──▶ wake
 *       │        ▲           │
 *       │ later  │           ├─ an event is unread: again, after it was read
 *       └────────┘           ├─ the source's memory is not readable: hold it, then again
 *     failed: pause, again; at the deadline give up: the child is killed or the page poisoned, never zeroes
 */

import { GuestError } from '../errors/guest-error.js';
import { reasonOf } from '../errors/reason.js';
import { UffdError } from '../errors/uffd-error.js';
import type { Range, Resolution, Uffd } from '../kernel/index.js';
import { pageSize } from '../kernel/range.js';
import { HowToRead } from '../pager/how.js';
import { isPermanent, pauseBeforeRetry } from '../pager/retry.js';
import { AFTER_STOP_MS } from './eventually.js';
import { GUEST_PAGE } from './pages.js';
import type { GuestRegion, RegionHost } from './region.js';
import type { Supply } from './source.js';

const EFAULT = 14;
const EINVAL = 22;

/** A page on its way. */
export interface Load {
  readonly page: number;
  readonly write: boolean;
  readonly ahead: boolean;
  /** When its fault could be read, in ms of `performance.now()`. */
  readonly since: number;
  readonly deadline: number;
  /** The state of a page that was thought to be there, or partly is: what is there stays as it is. */
  readonly before: number | undefined;
  /** An earlier try has put a part of it there. */
  begun: boolean;
  failed: number;
}

const WAKE = { wake: true };
const WAKE_PROTECTED = { wake: true, writeProtect: true };
const QUIET = { wake: false };
const QUIET_PROTECTED = { wake: false, writeProtect: true };

export class Loader {
  readonly #region: GuestRegion;
  readonly #uffd: Uffd;
  readonly #host: RegionHost;
  readonly #storeOffset: number;
  /** For stores that answer at once. One that answers later keeps it. */
  #buffer: Uint8Array | undefined;
  #zeroes: Uint8Array | undefined;
  /** Wait for an event of the child to be read. */
  #again: Load[] = [];
  /** End what waits for a promise or a pause. */
  readonly #cancels = new Set<() => void>();

  constructor(region: GuestRegion, uffd: Uffd, storeOffset: number, host: RegionHost) {
    this.#region = region;
    this.#uffd = uffd;
    this.#storeOffset = storeOffset;
    this.#host = host;
  }

  /** The region is over: nobody waits any more, and no timer may keep the event loop. */
  end(): void {
    for (const cancel of this.#cancels) cancel();
    this.#cancels.clear();
    this.#again = [];
  }

  /** The page is in state LOADING, and has its place in the budget. */
  load(load: Load): void {
    if (this.#region.over) return;
    const saved = this.#region.pages.saved.get(load.page);
    if (saved !== undefined && saved.holes.size === 0) {
      this.#install(load, saved.bytes);
      return;
    }
    const how = new HowToRead(load.ahead ? 2 : load.write ? 1 : 0);
    const buffer = this.#buffer ?? new Uint8Array(this.#region.pageSize);
    this.#buffer = undefined; // the store may come back here before it has answered
    let supply: Supply | Promise<Supply>;
    try {
      supply = this.#host.source.read(this.#offsetOf(load.page), buffer, how);
    } catch (error) {
      this.#failed(load, error);
      return;
    }
    if (supply instanceof Promise) {
      this.#await(load, supply, (bytes) => this.#install(load, bytes), how);
      return;
    }
    this.#install(load, supply);
    this.#buffer = buffer;
  }

  /** What had to wait for an event has another try. */
  tryAgain(): void {
    if (this.#again.length === 0) return;
    const loads = this.#again;
    this.#again = [];
    for (const load of loads) this.load(load);
  }

  #offsetOf(page: number): number {
    return this.#storeOffset + page * this.#region.pageSize;
  }

  /** Waits, but not beyond the load's deadline. */
  #await<T>(load: Load, promise: Promise<T>, then: (value: T) => void, how?: HowToRead): void {
    let over = false;
    const end = (): boolean => {
      const first = !over;
      over = true;
      clearTimeout(timer);
      this.#cancels.delete(cancel);
      return first;
    };
    const once = (next: () => void): void => {
      if (end()) this.#host.guard(next);
    };
    const cancel = (): void => {
      if (end()) how?.abort(new GuestError('ERR_PAGEFAULT_GUEST_GONE', 'nobody waits for the page any more'));
    };
    const late = (): void => {
      const { faultTimeoutMs, pid } = this.#host;
      const error = new GuestError(
        'ERR_PAGEFAULT_TIMEOUT',
        `page ${load.page} of region ${this.#region.index} of process ${pid} did not come within ${faultTimeoutMs} ms`,
        { pid },
      );
      how?.abort(error);
      once(() => this.#giveUp(load, error));
    };
    const timer = setTimeout(late, Math.max(1, load.deadline - performance.now()));
    this.#cancels.add(cancel);
    promise.then(
      (value) => once(() => then(value)),
      (error: unknown) => once(() => this.#failed(load, error)),
    );
  }

  /* --- into the child's memory ----------------------------------------------------------------------------------------- */

  #install(load: Load, supply: Supply, held = false): void {
    const range = this.#region.rangeOf(load.page);
    if (range === undefined) {
      this.#gone(load);
      return;
    }
    const { policy, observe } = this.#host;
    const watched = this.#region.writeProtect && (policy.trackWrites || policy.strategy === 'budget');
    const protect = watched && !load.write;
    const options = observe === undefined ? (protect ? WAKE_PROTECTED : WAKE) : protect ? QUIET_PROTECTED : QUIET;
    let done: Resolution;
    try {
      done = this.#copy(load.page, range, supply ?? this.#zeroPage(), options);
    } catch (error) {
      this.#copyFailed(load, supply, error, held);
      return;
    }
    if (done.status === 'done') {
      const state = protect ? GUEST_PAGE.present : watched ? GUEST_PAGE.dirty : GUEST_PAGE.open;
      this.#installed(load, range, done, state);
      return;
    }
    if (done.status === 'again') {
      load.begun ||= done.copied > 0;
      this.#later(load);
      return;
    }
    if (done.status === 'gone') this.#region.vanished();
    else this.#gone(load);
  }

  /** Of a page that the child wrote to and then gave up in part, the parts come from two places, each whole. */
  #copy(page: number, range: Range, supply: Uint8Array | Range, options: { wake: boolean }): Resolution {
    const { pages, step } = this.#region;
    const saved = pages.saved.get(page);
    if (saved === undefined || saved.bytes === supply) {
      const of = step === pageSize() ? options : { ...options, pageSize: step };
      return this.#uffd.resolve(range.address, supply, of);
    }
    let copied = 0;
    let present = 0;
    for (let at = 0; at < range.byteLength; at += step) {
      const from = saved.holes.has(at / step) ? supply : saved.bytes;
      const part = from instanceof Uint8Array ? from.subarray(at, at + step) : partOf(from, at, step);
      const done = this.#uffd.resolve(range.address + BigInt(at), part, { ...options, wake: false });
      copied += done.copied;
      present += done.present;
      if (done.status !== 'done') return { ...done, copied, present };
    }
    if (options.wake) this.#uffd.wake(range);
    return { status: 'done', byteLength: range.byteLength, copied, present };
  }

  #zeroPage(): Uint8Array {
    this.#zeroes ??= new Uint8Array(this.#region.pageSize);
    return this.#zeroes;
  }

  /** What was there before may have been written to: what nobody knows is `open`. */
  #installed(load: Load, range: Range, { copied, present }: Resolution, wanted: number): void {
    const { counters } = this.#host;
    const { pages } = this.#region;
    const untouched = copied === 0 && !load.begun;
    const state = present === 0 ? wanted : ((untouched ? load.before : undefined) ?? GUEST_PAGE.open);
    if (load.before !== undefined) {
      if (untouched) counters.duplicates += 1;
      else counters.faults += 1;
    }
    if (!untouched) {
      if (!load.ahead) counters.service.add((performance.now() - load.since) * 1e6);
      counters.pages += 1;
      counters.bytes += copied;
      if (load.ahead) counters.ahead += 1;
    }
    if (state !== GUEST_PAGE.present) pages.saved.delete(load.page);
    pages.set(load.page, state);
    if (this.#host.observe !== undefined) {
      const { page, ahead } = load;
      this.#region.tell({ type: 'copied', page, byteLength: copied, ahead });
      if (state === GUEST_PAGE.dirty) this.#region.tell({ type: 'written', page });
      this.#uffd.wake(range);
    }
    this.#region.settled(load.page);
  }

  /** The child changes its memory at this moment, and says so with an event that is to be read first. */
  #later(load: Load): void {
    let again = load;
    if (performance.now() > load.deadline && this.#host.isStopped?.() === true) {
      again = { ...load, deadline: performance.now() + Math.max(AFTER_STOP_MS, this.#host.faultTimeoutMs) };
    } else if (performance.now() > load.deadline) {
      const error = new GuestError('ERR_PAGEFAULT_TIMEOUT', `the memory of process ${this.#host.pid} kept changing`, {
        pid: this.#host.pid,
      });
      this.#giveUp(load, error);
      return;
    }
    this.#again.push(again);
    if (this.#again.length === 1) setImmediate(() => this.#host.guard(() => this.#region.look()));
  }

  /** Unmapped, or the process has ended: nobody waits any more. */
  #gone(load: Load): void {
    this.#region.pages.set(load.page, GUEST_PAGE.absent);
    this.#host.residency.leave(this.#region);
    this.#region.settled(load.page);
  }

  /* --- failures ------------------------------------------------------------------------------------------------------------ */

  /** `held`: the source's memory was made readable just now, so that this is not what is wrong. */
  #copyFailed(load: Load, supply: Supply, error: unknown, held: boolean): void {
    const { hold } = this.#host.source;
    const unread = error instanceof UffdError && error.errno === EFAULT && supply !== null && 'address' in supply;
    if (!unread || hold === undefined || held) {
      this.#failed(load, error);
      return;
    }
    const offset = this.#offsetOf(load.page);
    const wanted = Math.min(this.#region.pageSize, this.#host.source.byteLength - offset);
    const holding = hold(offset, wanted);
    this.#await(load, holding, () => this.#install(load, supply, true));
    holding.then(
      (held) => held[Symbol.dispose](), // it has been installed, or nobody waited for it any more
      () => {},
    );
  }

  #failed(load: Load, error: unknown): void {
    const { source, faultTimeoutMs, counters } = this.#host;
    load.failed += 1;
    const remaining = load.deadline - performance.now();
    const kernel = error instanceof UffdError && error.errno !== EINVAL;
    const pause =
      (source.retries || kernel) && !isPermanent(error)
        ? pauseBeforeRetry(load.failed, remaining, faultTimeoutMs)
        : undefined;
    if (pause === undefined) {
      this.#giveUp(load, error);
      return;
    }
    counters.retries += 1;
    const cancel = (): void => clearTimeout(timer);
    const timer = setTimeout(() => {
      this.#cancels.delete(cancel);
      this.#host.guard(() => this.load(load));
    }, pause);
    this.#cancels.add(cancel);
  }

  /** Nobody has asked for a page that is read ahead: whoever does has tries of his own. */
  #giveUp(load: Load, cause: unknown): void {
    if (load.ahead) {
      this.#region.notComing(load.page);
      return;
    }
    const { page } = load;
    const range = this.#region.rangeOf(page);
    const reason = reasonOf(cause);
    const where = `page ${page} of region ${this.#region.index} of process ${this.#host.pid}`;
    const error = new GuestError('ERR_PAGEFAULT_GUEST_GONE', `${where} cannot be had: ${reason}`, {
      cause,
      pid: this.#host.pid,
    });
    this.#host.counters.failures += 1;
    this.#region.pages.set(page, GUEST_PAGE.failed);
    this.#host.residency.leave(this.#region);
    this.#region.tell({ type: 'failed', page, error });
    if (this.#host.pageFailed(this.#region, page, error) !== 'killed' && range !== undefined) {
      this.#region.poison(range, error);
    }
    this.#region.settled(page);
  }
}

function partOf(range: Range, at: number, byteLength: number): Range {
  return { address: range.address + BigInt(at), byteLength };
}
