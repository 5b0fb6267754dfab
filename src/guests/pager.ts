/**
 * `Pager`: pages for addresses of somebody else. It is told of faults, by whoever sees them (a virtual machine monitor, an exception
 * handler, a protocol), and answers with the bytes of the page. On the event loop of the thread that made it; nothing here waits for it.
 *
 *     serveFault ──▶ in a region? ──▶ warm? ──▶ source ──▶ all bytes? ──▶ counted, answered
 *                       │ no            │ no                │ no
 *                       ▼               └─▶ opened once     ▼
 *                 OutOfRegionError              SHORT, OPEN, PROTOCOL, IO, SPAWN; TIMEOUT at the deadline
 */

import { outOfRange } from '../errors/argument.js';
import { OutOfRegionError } from '../errors/out-of-region-error.js';
import { PagefaultError } from '../errors/pagefault-error.js';
import { native } from '../native/load.js';
import { checkStoreRef } from '../segment/source.js';
import type { StoreRef } from '../stores/ref.js';
import { type HandlerCounts, handlerCounts } from './handler-counts.js';
import { PageReader } from './page-reader.js';
import { openPageSource, type PageSource } from './page-source.js';
import { nameSource } from './page-source-failure.js';
import {
  bootCritical,
  type CheckedPagerOptions,
  checkAddress,
  checkPageBytes,
  checkPagerOptions,
  type PagerOptions,
} from './pager-options.js';
import { PagerRegions } from './pager-regions.js';

/** What a pager has done, read at once. None of them ever decreases. */
export interface PagerStats extends HandlerCounts {
  /** Pages that were served, prewarmed ones among them. */
  readonly faults: number;
  /** Pages that `prewarm` brought. */
  readonly prewarmed: number;
  /** Faults that got no page. */
  readonly failures: number;
  /** Reads that were tried again. */
  readonly retries: number;
  /** Bytes of the pages that were served. */
  readonly bytes: number;
}

type Writable<T> = { -readonly [Key in keyof T]: T[Key] };

export class Pager implements AsyncDisposable {
  /** See {@link bootCritical}. */
  static readonly bootCritical: typeof bootCritical = bootCritical;

  /** Resolves when a shutdown was observed: nothing is served any more, and the source is closed. */
  readonly closed: Promise<void>;
  readonly #store: StoreRef;
  readonly #options: CheckedPagerOptions;
  readonly #regions = new PagerRegions();
  readonly #counts: Writable<Omit<PagerStats, keyof HandlerCounts>> = {
    faults: 0,
    prewarmed: 0,
    failures: 0,
    retries: 0,
    bytes: 0,
  };
  /** Of pages that were prewarmed and not asked for since, by address and size. */
  readonly #warm = new Map<string, Uint8Array>();
  readonly #reader: PageReader;
  readonly #timer: NodeJS.Timeout;
  readonly #settle: { resolve(): void; reject(error: unknown): void };
  #shuttingDown = false;

  /**
   * @param source What `pagefault/stores` makes. It is opened by the first fault.
   * @throws TypeError, RangeError for wrong arguments
   * @example
   * const pager = new Pager(file('vm.mem'), { pageSize: 16384, prewarm: bootCritical(0x8000_2000n, 0x8fff_0000n, 0x8800_0000n) });
   * pager.registerRegion(0x8000_0000n, 0x1000_0000n);
   * await pager.prewarm();
   * const page = await pager.serveFault(0x8000_1234n); // the 16 KiB from 0x8000_0000n
   */
  constructor(source: StoreRef, options: PagerOptions = {}) {
    checkStoreRef(source, 'Pager');
    this.#store = source;
    this.#options = checkPagerOptions(options);
    const { faultTimeoutMs } = this.#options;
    const open = (): Promise<PageSource> => openPageSource('Pager', source, faultTimeoutMs);
    this.#reader = new PageReader(nameSource(source), open, faultTimeoutMs, () => {
      this.#counts.retries += 1;
    });
    let settle: { resolve(): void; reject(error: unknown): void } | undefined;
    this.closed = new Promise((resolve, reject) => {
      settle = { resolve, reject };
    });
    this.closed.catch(() => {}); // for who asks
    if (settle === undefined) throw new Error('unreachable');
    this.#settle = settle;
    this.#timer = setInterval(() => this.#look(), this.#options.pollIntervalMs).unref();
  }

  /** Addresses from `base` on are this pager's. A region that would wrap 2^64 ends there; regions may overlap. */
  registerRegion(base: bigint, byteLength: bigint): void {
    this.#regions.add(base, byteLength);
  }

  /** True for an address in a region. */
  contains(address: bigint): boolean {
    checkAddress('contains(): address', address);
    return this.#regions.has(address);
  }

  /**
   * The page that an address lies in: all of its bytes, in memory that is the caller's. `address` is aligned down.
   *
   * @param pageSize Bytes of this page. Default that of the pager.
   * @throws OutOfRegionError the address is in no region; RangeError it is below `start`, with both numbers
   * @throws PageSourceError SHORT (`got`, `expected`), OPEN (`path`), PROTOCOL (`expected`, `received`), IO (`cause`), SPAWN,
   * TIMEOUT after `faultTimeoutMs`, with the last error as `cause`
   * @throws PagefaultError ERR_PAGEFAULT_CLOSED: a shutdown was requested
   */
  async serveFault(address: bigint, pageSize: number = this.#options.pageSize): Promise<Uint8Array> {
    checkAddress('serveFault(): address', address);
    const bytes = checkPageBytes('serveFault(): pageSize', pageSize);
    if (this.#shuttingDown) throw shutDown();
    if (!this.#regions.has(address)) throw new OutOfRegionError(address, this.#regions.count);
    const page = address - (address % BigInt(bytes));
    const kept = this.#warm.get(`${page} ${bytes}`);
    this.#warm.delete(`${page} ${bytes}`);
    return this.#counted(kept ?? (await this.#fetch(page, bytes)));
  }

  /**
   * Brings the pages of the option `prewarm`, one after the other; each is kept until its fault comes. They count as faults, too. Stops at
   * the first error, which it rejects with; what was brought until then stays.
   */
  async prewarm(): Promise<void> {
    for (const address of this.#options.prewarm) {
      const page = await this.serveFault(address);
      const { pageSize } = this.#options;
      this.#warm.set(`${address - (address % BigInt(pageSize))} ${pageSize}`, page);
      this.#counts.prewarmed += 1;
    }
  }

  /** All of them at one moment. */
  stats(): PagerStats {
    return { ...this.#counts, ...handlerCounts() };
  }

  /**
   * Nothing new is served from now on. Within `pollIntervalMs` this is observed: what is still on its way is given up, the source is
   * closed, and `closed` resolves. Idempotent.
   */
  requestShutdown(): void {
    if (this.#shuttingDown) return;
    this.#shuttingDown = true;
    this.#timer.ref();
  }

  get isShuttingDown(): boolean {
    return this.#shuttingDown;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.requestShutdown();
    await this.closed;
  }

  #look(): void {
    if (!this.#shuttingDown) {
      native().checkHandlers(true);
      return;
    }
    clearInterval(this.#timer);
    this.#warm.clear();
    this.#reader.end(shutDown()).then(this.#settle.resolve, this.#settle.reject);
  }

  #counted(page: Uint8Array): Uint8Array {
    this.#counts.faults += 1;
    this.#counts.bytes += page.byteLength;
    return page;
  }

  #offsetOf(page: bigint): number {
    const { start = this.#store.kind === 'uds' ? this.#store.base : this.#regions.lowest } = this.#options;
    const first = start ?? 0n;
    if (page < first) {
      throw outOfRange(`address 0x${page.toString(16)} is below 0x${first.toString(16)}, where the source starts`);
    }
    const offset = page - first;
    if (offset <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(offset);
    throw outOfRange(
      `address 0x${page.toString(16)} is more than 2^53 bytes above 0x${first.toString(16)}, where the source starts`,
    );
  }

  async #fetch(page: bigint, pageSize: number): Promise<Uint8Array> {
    try {
      const bytes = new Uint8Array(pageSize);
      await this.#reader.fill(bytes, this.#offsetOf(page), page);
      return bytes;
    } catch (error) {
      this.#counts.failures += 1;
      throw error;
    }
  }
}

function shutDown(): PagefaultError {
  return new PagefaultError('ERR_PAGEFAULT_CLOSED', 'the pager was shut down');
}
