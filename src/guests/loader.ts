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
import { UffdError } from '../errors/uffd-error.js';
import type { Range, Uffd } from '../kernel/index.js';
import { How } from '../pager/read.js';
import { isPermanent, pauseBeforeRetry } from '../pager/retry.js';
import { GUEST_PAGE } from './pages.js';
import type { GuestRegion, RegionHost } from './region.js';
import type { Supply } from './source.js';

const EFAULT = 14;

/** A page on its way. */
export interface Load {
  readonly page: number;
  readonly write: boolean;
  readonly ahead: boolean;
  /** When its fault could be read, in ms of `performance.now()`. */
  readonly since: number;
  readonly deadline: number;
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
  /** For stores that answer at once. One that answers later keeps it until then, and gets a new one put here. */
  #buffer: Uint8Array;
  #zeroes: Uint8Array | undefined;
  /** Wait for an event of the child to be read. */
  #again: Load[] = [];

  constructor(region: GuestRegion, uffd: Uffd, storeOffset: number, host: RegionHost) {
    this.#region = region;
    this.#uffd = uffd;
    this.#storeOffset = storeOffset;
    this.#host = host;
    this.#buffer = new Uint8Array(region.pageSize);
  }

  /** The page is in state LOADING, and has its place in the budget. */
  load(load: Load): void {
    if (this.#region.over) return;
    const saved = this.#region.pages.saved.get(load.page);
    if (saved !== undefined) {
      this.#install(load, saved);
      return;
    }
    const how = new How(load.ahead ? 2 : load.write ? 1 : 0);
    let supply: Supply | Promise<Supply>;
    try {
      supply = this.#host.source.read(this.#offsetOf(load.page), this.#buffer, how);
    } catch (error) {
      this.#failed(load, error);
      return;
    }
    if (!(supply instanceof Promise)) {
      this.#install(load, supply);
      return;
    }
    this.#buffer = new Uint8Array(this.#region.pageSize);
    this.#await(load, supply, (bytes) => this.#install(load, bytes), how);
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
  #await<T>(load: Load, promise: Promise<T>, then: (value: T) => void, how?: How): void {
    let over = false;
    const once = (next: () => void): void => {
      if (over) return;
      over = true;
      clearTimeout(timer);
      if (!this.#region.over) next();
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
    promise.then(
      (value) => once(() => then(value)),
      (error: unknown) => once(() => this.#failed(load, error)),
    );
  }

  /* --- into the child's memory ----------------------------------------------------------------------------------------- */

  #install(load: Load, supply: Supply): void {
    const range = this.#region.rangeOf(load.page);
    if (range === undefined) {
      this.#gone(load);
      return;
    }
    const { policy, observe } = this.#host;
    const watched = this.#region.writeProtect && (policy.trackWrites || policy.strategy === 'budget');
    const protect = watched && !load.write;
    const options = observe === undefined ? (protect ? WAKE_PROTECTED : WAKE) : protect ? QUIET_PROTECTED : QUIET;
    let status: string;
    try {
      status = this.#uffd.resolve(range.address, supply ?? this.#zeroPage(), options).status;
    } catch (error) {
      this.#copyFailed(load, supply, error);
      return;
    }
    if (status === 'done') {
      this.#installed(load, range, protect ? 'present' : watched ? 'dirty' : 'open');
      return;
    }
    if (status === 'again') {
      this.#later(load);
      return;
    }
    this.#gone(load);
  }

  #zeroPage(): Uint8Array {
    this.#zeroes ??= new Uint8Array(this.#region.pageSize);
    return this.#zeroes;
  }

  #installed(load: Load, range: Range, state: 'present' | 'dirty' | 'open'): void {
    const { counters } = this.#host;
    const { pages } = this.#region;
    if (!load.ahead) counters.service.add((performance.now() - load.since) * 1e6);
    counters.pages += 1;
    counters.bytes += range.byteLength;
    if (load.ahead) counters.ahead += 1;
    if (state !== 'present') pages.saved.delete(load.page);
    pages.set(load.page, GUEST_PAGE[state]);
    if (this.#host.observe === undefined) return;
    const { page, ahead } = load;
    this.#region.tell({ type: 'copied', page, byteLength: range.byteLength, ahead });
    if (state === 'dirty') this.#region.tell({ type: 'written', page });
    this.#uffd.wake(range);
  }

  /** The child changes its memory at this moment, and says so with an event that is to be read first. */
  #later(load: Load): void {
    if (performance.now() > load.deadline) {
      const error = new GuestError('ERR_PAGEFAULT_TIMEOUT', `the memory of process ${this.#host.pid} kept changing`, {
        pid: this.#host.pid,
      });
      this.#giveUp(load, error);
      return;
    }
    this.#again.push(load);
    if (this.#again.length === 1) setImmediate(() => this.#region.look());
  }

  /** Unmapped, or the process has ended: nobody waits any more. */
  #gone(load: Load): void {
    this.#region.pages.set(load.page, GUEST_PAGE.absent);
    this.#host.residency.leave(this.#region);
  }

  /* --- failures ------------------------------------------------------------------------------------------------------------ */

  #copyFailed(load: Load, supply: Supply, error: unknown): void {
    const { hold } = this.#host.source;
    const unread = error instanceof UffdError && error.errno === EFAULT && supply !== null && 'address' in supply;
    if (!unread || hold === undefined) {
      this.#failed(load, error);
      return;
    }
    const offset = this.#offsetOf(load.page);
    const wanted = Math.min(this.#region.pageSize, this.#host.source.byteLength - offset);
    this.#await(load, hold(offset, wanted), (held) => {
      try {
        this.#install(load, supply);
      } finally {
        held[Symbol.dispose]();
      }
    });
  }

  #failed(load: Load, error: unknown): void {
    const { source, faultTimeoutMs, counters } = this.#host;
    load.failed += 1;
    const remaining = load.deadline - performance.now();
    const kernel = error instanceof UffdError;
    const pause =
      (source.retries || kernel) && !isPermanent(error)
        ? pauseBeforeRetry(load.failed, remaining, faultTimeoutMs)
        : undefined;
    if (pause === undefined) {
      this.#giveUp(load, error);
      return;
    }
    counters.retries += 1;
    setTimeout(() => this.load(load), pause);
  }

  #giveUp(load: Load, cause: unknown): void {
    const { page } = load;
    const range = this.#region.rangeOf(page);
    const reason = cause instanceof Error ? cause.message : String(cause);
    const where = `page ${page} of region ${this.#region.index} of process ${this.#host.pid}`;
    const error = new GuestError('ERR_PAGEFAULT_GUEST_GONE', `${where} cannot be had: ${reason}`, {
      cause,
      pid: this.#host.pid,
    });
    this.#host.counters.failures += 1;
    this.#region.pages.set(page, GUEST_PAGE.failed);
    this.#host.residency.leave(this.#region);
    this.#region.tell({ type: 'failed', page, error });
    if (this.#host.pageFailed(this.#region, page, error) === 'killed' || range === undefined) return;
    try {
      this.#uffd.poison(range);
    } catch (poison) {
      this.#host.broken(
        new GuestError('ERR_PAGEFAULT_GUEST_GONE', `${error.message}, nor poisoned`, {
          cause: poison,
          pid: this.#host.pid,
        }),
      );
    }
  }
}
