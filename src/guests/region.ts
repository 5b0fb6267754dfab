/**
 * One range of another process's memory: its faults are read from a userfaultfd and answered from a source. All of it runs on one
 * thread, the pager's, between two turns of its event loop; what is asynchronous leaves the page in state LOADING or EVICTING.
 *
 * Order within one turn: everything that can be read is read; what changes the memory (remap, remove, unmap) is applied before any fault
 * is answered, because the kernel hands faults out first and a page that was given up must not be filled from before.
 */

import { constants } from 'node:os';
import { GuestError } from '../errors/guest-error.js';
import { SystemError } from '../errors/system-error.js';
import type { Range, Uffd, UffdEvent } from '../kernel/index.js';
import type { Counters } from './counters.js';
import type { Observe, PageEvent, PagingEvent } from './events.js';
import { type Load, Loader } from './loader.js';
import { GUEST_PAGE, Pages } from './pages.js';
import type { GuestMemoryKind } from './protocol.js';
import type { Residency } from './residency.js';
import type { GuestSource } from './source.js';
import { Spans } from './spans.js';
import type { Policy } from './strategy.js';

const { EAGAIN, ENOENT, ESRCH } = constants.errno;
const MESSAGE_BYTES = 32;
const MESSAGES = 64;
/** Pages that `eager` brings before the event loop has its turn. */
const BATCH = 256;

/** What a region needs of the process it belongs to. */
export interface RegionHost {
  readonly pid: number;
  readonly source: GuestSource;
  readonly policy: Policy;
  readonly counters: Counters;
  readonly residency: Residency;
  readonly faultTimeoutMs: number;
  readonly observe: Observe | undefined;
  /** Takes pages away in the child. */
  drop(address: bigint, byteLength: number): Promise<void>;
  /** Bytes of the child's memory. */
  copyOut(address: bigint, into: Uint8Array): void;
  /** A page cannot be had. `poison` leaves the decision to the region, which makes a touch of it a SIGBUS. */
  pageFailed(region: GuestRegion, page: number, error: Error): 'poison' | 'killed';
  /** Nothing can be answered any more. */
  broken(error: Error): void;
}

export interface RegionParts {
  readonly index: number;
  readonly uffd: Uffd;
  readonly address: bigint;
  readonly byteLength: number;
  readonly pageSize: number;
  readonly storeOffset: number;
  readonly memory: GuestMemoryKind;
  /** Registered for write-protection too. */
  readonly writeProtect: boolean;
}

export class GuestRegion {
  readonly index: number;
  readonly address: bigint;
  readonly byteLength: number;
  readonly pageSize: number;
  readonly memory: GuestMemoryKind;
  readonly writeProtect: boolean;
  readonly pages: Pages;
  readonly #uffd: Uffd;
  readonly #host: RegionHost;
  readonly #spans: Spans;
  readonly #loader: Loader;
  readonly #messages = new Uint8Array(MESSAGES * MESSAGE_BYTES);
  /** Faults that came while the page was being taken away. */
  readonly #wanted = new Map<number, Load>();
  #over = false;

  constructor(parts: RegionParts, host: RegionHost) {
    this.index = parts.index;
    this.address = parts.address;
    this.byteLength = parts.byteLength;
    this.pageSize = parts.pageSize;
    this.memory = parts.memory;
    this.writeProtect = parts.writeProtect;
    this.pages = new Pages(Math.ceil(parts.byteLength / parts.pageSize));
    this.#uffd = parts.uffd;
    this.#spans = new Spans(parts.address, parts.byteLength);
    this.#host = host;
    this.#loader = new Loader(this, parts.uffd, parts.storeOffset, host);
    host.residency.add(this);
  }

  get over(): boolean {
    return this.#over;
  }

  /** Where the page lies now; undefined when the child has unmapped it. */
  rangeOf(page: number): Range | undefined {
    const address = this.#spans.addressOf(page * this.pageSize);
    return address === undefined ? undefined : { address, byteLength: this.pageSize };
  }

  /** Whether a page of this region lies in the range now. */
  overlaps(address: bigint, byteLength: number): boolean {
    return !this.#over && !this.#spans.within(address, address + BigInt(byteLength)).next().done;
  }

  /**
   * The process has ended, or has unmapped all of it: nothing can be waiting, so that closing the userfaultfd lets nobody read
   * zeroes.
   */
  end(): void {
    if (this.#over) return;
    this.#over = true;
    this.#wanted.clear();
    this.#uffd.close();
    this.pages.saved.clear();
  }

  /** The child has given all of it up, and goes on: nothing of it counts in the budget any more. */
  #unmapped(): void {
    this.end();
    for (let page = 0; page < this.pages.count; page++) {
      const held = this.pages.isResident(page) || this.pages.state(page) === GUEST_PAGE.loading;
      this.pages.set(page, GUEST_PAGE.absent);
      if (held) this.#host.residency.leave(this);
    }
  }

  /* --- events -------------------------------------------------------------------------------------------------------- */

  /** Reads what is there, and answers it. */
  look(): void {
    if (!this.#over) this.serve(this.#uffd.readEvents(this.#messages), performance.now());
  }

  /** Answers what was read from the userfaultfd. `since`: when it was found readable, in ms of `performance.now()`. */
  serve(read: UffdEvent[], since: number): void {
    if (this.#over) return;
    const events = read.length === MESSAGES ? this.#readRest(read) : read;
    if (events.length > 1) this.#applyChanges(events);
    for (const event of events) {
      if (event.type === 'pagefault') this.#fault(event, since);
      else if (events.length === 1) this.#change(event);
      if (this.#over) return;
    }
    this.#loader.tryAgain();
  }

  /** More than one buffer's worth: as many as there are threads that wait, and no more. */
  #readRest(events: UffdEvent[]): UffdEvent[] {
    for (;;) {
      const more = this.#uffd.readEvents(this.#messages);
      events.push(...more);
      if (more.length < MESSAGES) return events;
    }
  }

  #applyChanges(events: readonly UffdEvent[]): void {
    for (const event of events) if (event.type !== 'pagefault') this.#change(event);
  }

  #change(event: Exclude<UffdEvent, { type: 'pagefault' }>): void {
    switch (event.type) {
      case 'remap':
        this.#spans.move(event.from, event.to, event.byteLength);
        break;
      case 'remove':
        for (const [begin, end] of this.#spans.within(event.start, event.end)) this.#removed(begin, end);
        break;
      case 'unmap':
        for (const [begin, end] of this.#spans.within(event.start, event.end)) this.#removed(begin, end);
        this.#spans.remove(event.start, event.end);
        if (this.#spans.empty) this.#unmapped();
        break;
      case 'fork':
        // Not asked for: the child's library keeps the memory out of its forks.
        event.uffd.close();
        break;
      case 'unknown':
        break;
    }
  }

  /** The child gave pages up. Those that are being evicted are ours: the event is the echo of our own DROP. */
  #removed(begin: number, end: number): void {
    const first = Math.ceil(begin / this.pageSize);
    const last = Math.min(this.pages.count, Math.floor(end / this.pageSize));
    let count = 0;
    for (let page = first; page < last; page++) {
      const state = this.pages.state(page);
      if (state === GUEST_PAGE.evicting || state === GUEST_PAGE.loading) continue;
      if (state !== GUEST_PAGE.absent) count += 1;
      this.pages.saved.delete(page);
      const resident = this.pages.isResident(page);
      this.pages.set(page, GUEST_PAGE.absent);
      if (resident) this.#host.residency.leave(this);
    }
    if (count === 0) return;
    this.#host.counters.removed += count;
    this.tell({ type: 'removed', page: first, count });
  }

  #fault(event: Extract<UffdEvent, { type: 'pagefault' }>, since: number): void {
    const offset = this.#spans.offsetOf(event.address);
    if (offset === undefined) {
      this.#stray(event);
      return;
    }
    const page = Math.floor(offset / this.pageSize);
    const { observe, counters, residency } = this.#host;
    if (observe !== undefined) {
      const { kind, access, address, thread } = event;
      this.tell({ type: 'fault', page, kind, access, address, thread });
    }
    residency.saw(event.thread);
    if (event.kind === 'write-protect') {
      this.#writeFault(page);
      return;
    }
    const load = this.#newLoad(page, event.access === 'write', false, since);
    const state = this.pages.state(page);
    if (state === GUEST_PAGE.loading || state === GUEST_PAGE.evicting) {
      counters.duplicates += 1;
      if (state === GUEST_PAGE.evicting) this.#wanted.set(page, load);
      return;
    }
    if (this.pages.isResident(page)) {
      this.#duplicate(page);
      return;
    }
    counters.faults += 1;
    this.#demand(load);
    if (this.#host.policy.strategy === 'read-ahead') this.#readAhead(page);
  }

  #newLoad(page: number, write: boolean, ahead: boolean, since: number): Load {
    return { page, write, ahead, since, deadline: since + this.#host.faultTimeoutMs, failed: 0 };
  }

  /** A second message for a page that has come since: another thread's, or after a signal. The thread looks again and finds it. */
  #duplicate(page: number): void {
    this.#host.counters.duplicates += 1;
    const range = this.rangeOf(page);
    if (range !== undefined) this.#uffd.wake(range);
  }

  /** A fault where nothing of ours lies. */
  #stray({ address }: { address: bigint }): void {
    const base = address - (address % BigInt(this.pageSize));
    if (this.#spans.moved) {
      this.#uffd.resolve(base, 'zero', { byteLength: this.pageSize }); // memory that mremap added
      return;
    }
    this.#host.broken(
      new GuestError(
        'ERR_PAGEFAULT_GUEST_GONE',
        `process ${this.#host.pid} faulted at 0x${address.toString(16)}, which belongs to no region it has handed over`,
        { pid: this.#host.pid },
      ),
    );
  }

  #writeFault(page: number): void {
    const state = this.pages.state(page);
    const range = this.rangeOf(page);
    if (state === GUEST_PAGE.evicting || range === undefined) return; // woken when the page is gone: then it is a miss
    if (state === GUEST_PAGE.present) {
      this.#host.counters.writeFaults += 1;
      this.pages.set(page, GUEST_PAGE.dirty);
      this.pages.saved.delete(page);
      this.tell({ type: 'written', page });
    }
    if (!this.pages.isResident(page)) this.#uffd.wake(range);
    else this.#eventually(() => this.#allowWrites(page, range)).catch((error) => this.#host.broken(error));
  }

  /** Looks again, because it may run late: a page that is being evicted by then must stay protected, or the write would be lost. */
  #allowWrites(page: number, range: Range): void {
    const state = this.pages.state(page);
    if (state === GUEST_PAGE.dirty || state === GUEST_PAGE.open) this.#uffd.removeWriteProtection(range);
  }

  /** The kernel refuses to protect memory that is changing: each event that says so must have been read, and the change be over. */
  async #eventually(call: () => void): Promise<void> {
    const deadline = performance.now() + this.#host.faultTimeoutMs;
    for (;;) {
      try {
        call();
        return;
      } catch (error) {
        const errno = error instanceof SystemError ? error.errno : undefined;
        if (this.#over || errno === ESRCH || errno === ENOENT) return; // ended, or unmapped
        if (errno !== EAGAIN || performance.now() > deadline) throw error;
      }
      await turn();
    }
  }

  /* --- loading ------------------------------------------------------------------------------------------------------- */

  #demand(load: Load): void {
    const { policy, residency, counters } = this.#host;
    if (this.pages.state(load.page) === GUEST_PAGE.evicted) counters.reloads += 1;
    this.pages.set(load.page, GUEST_PAGE.loading);
    const begin = (): void => {
      residency.enter(this, load.page);
      this.#loader.load(load);
    };
    if (policy.strategy === 'budget') residency.whenRoom(this, begin);
    else begin();
  }

  #readAhead(page: number): void {
    const last = Math.min(this.pages.count, page + this.#host.policy.readahead);
    const now = performance.now();
    for (let next = page + 1; next < last; next++) {
      if (this.pages.state(next) === GUEST_PAGE.absent) this.#demand(this.#newLoad(next, false, true, now));
    }
  }

  /** Brings every page that is not there. Resolves when each is, or has failed. */
  async loadAll(): Promise<void> {
    for (let page = 0; page < this.pages.count && !this.#over; page++) {
      const state = this.pages.state(page);
      if (state === GUEST_PAGE.absent || state === GUEST_PAGE.evicted) {
        this.#demand(this.#newLoad(page, false, true, performance.now()));
      }
      if (page % BATCH === BATCH - 1) await turn();
    }
    while (!this.#over && this.pages.states.includes(GUEST_PAGE.loading)) await turn();
  }

  /* --- evicting ------------------------------------------------------------------------------------------------------ */

  /** Whether a page may leave: now, not while it is on its way, or not at all since it is not there. */
  mayEvict(page: number): 'now' | 'later' | 'gone' {
    const state = this.pages.state(page);
    if (state === GUEST_PAGE.loading || state === GUEST_PAGE.evicting) return 'later';
    return this.pages.isResident(page) && this.writeProtect ? 'now' : 'gone';
  }

  /**
   * Takes pages away. No write is lost: each page is protected first, then what was written is copied out, then it is dropped; a thread that
   * writes in between waits for its page to be gone and faults again.
   */
  async evict(pages: readonly number[]): Promise<void> {
    const runs = this.#runs(pages);
    await Promise.all(runs.map((run) => this.#evictRun(run.first, run.count, run.range)));
  }

  async #evictRun(first: number, count: number, range: Range): Promise<void> {
    const before = this.pages.states.slice(first, first + count);
    for (let page = first; page < first + count; page++) this.pages.set(page, GUEST_PAGE.evicting);
    const saves: boolean[] = [];
    try {
      await this.#eventually(() => this.#uffd.writeProtect(range));
      for (let i = 0; i < count; i++) {
        if (before[i] !== GUEST_PAGE.present) this.#save(first + i, range.address + BigInt(i * this.pageSize));
        saves.push(this.pages.saved.has(first + i));
      }
      await this.#host.drop(range.address, range.byteLength);
    } catch (error) {
      if (this.#over) return;
      // They are still there. What nobody knows is `open`; a write fault is answered in either state.
      for (let i = 0; i < count; i++) this.pages.set(first + i, before[i] ?? GUEST_PAGE.open);
      if (!this.#over) this.#uffd.wake(range);
      throw error;
    }
    for (let i = 0; i < count; i++) this.#evicted(first + i, saves[i] === true);
    if (!this.#over) this.#uffd.wake(range); // whoever waited to write
  }

  #save(page: number, address: bigint): void {
    const bytes = new Uint8Array(this.pageSize);
    this.#host.copyOut(address, bytes);
    this.pages.saved.set(page, bytes);
    this.#host.counters.saves += 1;
  }

  #evicted(page: number, saved: boolean): void {
    this.pages.set(page, GUEST_PAGE.evicted);
    this.#host.counters.evictions += 1;
    this.tell({ type: 'evicted', page, saved });
    this.#host.residency.leave(this);
    const wanted = this.#wanted.get(page);
    if (wanted === undefined || this.#over) return;
    this.#wanted.delete(page);
    this.#host.counters.faults += 1;
    this.#demand({ ...wanted });
  }

  /** Pages in runs that lie beside each other in the child, so that each run is one call. */
  #runs(pages: readonly number[]): { first: number; count: number; range: Range }[] {
    const runs: { first: number; count: number; range: Range }[] = [];
    for (const page of [...pages].sort((a, b) => a - b)) {
      const range = this.rangeOf(page);
      const last = runs.at(-1);
      if (range === undefined) continue;
      if (last !== undefined && last.first + last.count === page && endOf(last.range) === range.address) {
        last.count += 1;
        last.range = { address: last.range.address, byteLength: last.range.byteLength + range.byteLength };
      } else {
        runs.push({ first: page, count: 1, range });
      }
    }
    return runs;
  }

  /** Tells whoever listens. Callers that would build much for it look at `observe` first. */
  tell(event: PageEvent): void {
    const { observe, pid } = this.#host;
    observe?.({ ...event, pid, region: this.index } as PagingEvent);
  }
}

function endOf(range: Range): bigint {
  return range.address + BigInt(range.byteLength);
}

/** One turn of the event loop. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
