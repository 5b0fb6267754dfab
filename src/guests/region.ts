/**
 * One range of another process's memory: its faults are read from a userfaultfd and answered from a source. All of it runs on one
 * thread, the pager's, between two turns of its event loop; what is asynchronous leaves the page in state LOADING or EVICTING.
 *
 * Or threads of the core do all that (region-threads.ts), and this is how they are looked at, until the region is over or is taken back.
 *
 * Order within one turn: everything that can be read is read; what changes the memory (remap, remove, unmap) is applied before any fault
 * is answered, because the kernel hands faults out first and a page that was given up must not be filled from before.
 */

import { constants } from 'node:os';
import { GuestError } from '../errors/guest-error.js';
import { asError, reasonOf } from '../errors/reason.js';
import { SystemError } from '../errors/system-error.js';
import type { Range, Uffd, UffdEvent } from '../kernel/index.js';
import { pageSize } from '../kernel/range.js';
import type { Counters } from './counters.js';
import type { Observe, PageEvent, PagingEvent } from './events.js';
import { eventually, turn } from './eventually.js';
import { Evictor } from './evictor.js';
import { GivenUp } from './given-up.js';
import { type Load, Loader } from './loader.js';
import { GUEST_PAGE, Pages } from './pages.js';
import type { GuestMemoryKind } from './protocol.js';
import type { RegionThreads } from './region-threads.js';
import type { Residency } from './residency.js';
import type { GuestSource } from './source.js';
import { Spans } from './spans.js';
import type { Policy } from './strategy.js';

const { ESRCH } = constants.errno;
const MESSAGE_BYTES = 32;
const MESSAGES = 64;
/** Reads in a row: a child with more threads than that many messages does not keep the pager from the others. */
const READS = 16;
/** Pages that `eager` has under way at once: the deadline of each runs from when it is asked for. */
const BATCH = 256;

/** Who answers faults: threads of the core, whatever JavaScript does meanwhile, or JavaScript itself. */
export type ServedBy = 'threads' | 'event loop';

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
  /** Bytes of the child's memory; which of the system's pages among them are missing. */
  copyOut(address: bigint, into: Uint8Array): Set<number>;
  /** Runs something from a timer or a promise: an error of it is the end of the child, not of this process. */
  guard(job: () => void): void;
  /** A page cannot be had. `poison` leaves the decision to the region, which makes a touch of it a SIGBUS. */
  pageFailed(region: GuestRegion, page: number, error: Error): 'poison' | 'killed';
  /** Nothing can be answered any more. */
  broken(error: Error): void;
  /** False once the process has ended. */
  isAlive?(): boolean;
  /** It was stopped (Ctrl-Z, a debugger), and does nothing until it goes on. */
  isStopped?(): boolean;
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
  readonly #pages: Pages;
  /** False until the child has its answer: before that it takes no pages away. */
  #answered = true;
  readonly #uffd: Uffd;
  readonly #host: RegionHost;
  #spans: Spans;
  /** Whoever answers instead of the event loop. */
  #threads: RegionThreads | undefined;
  #servedBy: ServedBy = 'event loop';
  readonly #loader: Loader;
  readonly #evictor: Evictor;
  readonly #givenUp: GivenUp;
  readonly #messages = new Uint8Array(MESSAGES * MESSAGE_BYTES);
  /** The kernel's own page of this memory: what COPY and madvise cannot divide. */
  readonly step: number;
  /** Faults that came while the page was being taken away, or on its way already. */
  readonly #wanted = new Map<number, Load>();
  /** Pages in state LOADING that have no place in the budget yet. */
  readonly #queued = new Set<number>();
  /** Pages that came while a batch of messages is gone through, which may hold more faults of theirs. */
  readonly #fresh = new Set<number>();
  #batch = false;
  /** Whoever waits for pages on their way. */
  #settling: (() => void)[] = [];
  #over = false;

  constructor(parts: RegionParts, host: RegionHost, threads?: RegionThreads) {
    this.index = parts.index;
    this.address = parts.address;
    this.byteLength = parts.byteLength;
    this.pageSize = parts.pageSize;
    this.memory = parts.memory;
    this.writeProtect = parts.writeProtect;
    this.#pages = new Pages(Math.ceil(parts.byteLength / parts.pageSize));
    this.#uffd = parts.uffd;
    this.#spans = new Spans(parts.address, parts.byteLength);
    this.#host = host;
    this.step = parts.memory === 'hugetlb' ? parts.pageSize : pageSize();
    this.#givenUp = new GivenUp(this.#pages, Math.max(1, parts.pageSize / this.step));
    this.#loader = new Loader(this, parts.uffd, parts.storeOffset, host);
    this.#evictor = new Evictor(this, parts.uffd, host, this.#givenUp, (page) => this.#serveWanted(page));
    host.residency.add(this);
    this.#threads = threads;
    if (threads === undefined) return;
    this.#servedBy = 'threads';
    threads.listen(
      (page, error) => this.#failedThere(page, error),
      () => this.#host.guard(() => this.#goneThere()),
    );
  }

  get over(): boolean {
    return this.#over;
  }

  isStopped(): boolean {
    return this.#host.isStopped?.() === true;
  }

  /** The states of its pages. Those of threads are looked at now, all of them. */
  get pages(): Pages {
    this.#threads?.refresh(this.#pages);
    return this.#pages;
  }

  /** Who answers its faults; of one that is over, who did last. */
  get servedBy(): ServedBy {
    return this.#servedBy;
  }

  /** Bytes that are there now. */
  get residentBytes(): number {
    return (this.#threads?.numbers().present ?? this.#pages.resident) * this.pageSize;
  }

  /** Bytes that the pager keeps because the child wrote them and they were evicted. */
  get savedBytes(): number {
    return this.#pages.saved.size * this.pageSize;
  }

  /** Adds what threads have counted; what the event loop does is counted where it is done. */
  count(counters: Counters): void {
    this.#threads?.count(counters);
  }

  /** Where the page lies now; undefined when the child has unmapped it. */
  rangeOf(page: number): Range | undefined {
    const address = this.#spans.addressOf(page * this.pageSize);
    return address === undefined ? undefined : { address, byteLength: this.pageSize };
  }

  /** Whether a page of this region lies in the range now. */
  overlaps(address: bigint, byteLength: number): boolean {
    const end = address + BigInt(byteLength);
    if (this.#threads !== undefined)
      return this.#threads.areas().some((area) => area.start < end && address < area.end);
    return !this.#over && !this.#spans.within(address, address + BigInt(byteLength)).next().done;
  }

  /**
   * The process has ended, or has unmapped all of it: nothing can be waiting, so that closing the userfaultfd lets nobody read
   * zeroes.
   */
  end(): void {
    if (this.#over) return;
    this.#letGo();
    this.#over = true;
    this.#loader.end();
    this.#wanted.clear();
    this.#uffd.close();
    this.#pages.saved.clear();
    this.#settle();
  }

  /** Asks the kernel whether the memory is there still, by a call that does nothing else: nobody waits to write while nothing can be dropped. */
  probe(): void {
    const range = this.rangeOf(0);
    if (this.#over || range === undefined) return;
    try {
      this.#uffd.removeWriteProtection(range);
      if (this.#threads === undefined && this.#pages.state(0) === GUEST_PAGE.present)
        this.#pages.set(0, GUEST_PAGE.open);
    } catch (error) {
      if (error instanceof SystemError && error.errno === ESRCH) this.vanished();
    }
  }

  /** The memory is no more, though the process may be: an exec. */
  vanished(): void {
    if (!this.#over) this.#unmapped();
  }

  /** The child has given all of it up, and goes on: nothing of it counts in the budget any more. */
  #unmapped(): void {
    const counted = this.#threads === undefined;
    this.end();
    for (let page = 0; page < this.#pages.count; page++) {
      const loading = this.#pages.state(page) === GUEST_PAGE.loading && !this.#queued.has(page);
      const held = this.#pages.isResident(page) || loading;
      this.#pages.set(page, GUEST_PAGE.absent);
      if (held && counted) this.#host.residency.leave(this);
    }
  }

  /* --- threads of the core ------------------------------------------------------------------------------------------- */

  /** They have no part in it any more; what they have done is known here. */
  #letGo(): void {
    const threads = this.#threads;
    if (threads === undefined) return;
    threads.end(); // what they have told is heard in there
    if (this.#threads === undefined) return;
    threads.refresh(this.#pages);
    threads.count(this.#host.counters);
    threads.close();
    this.#threads = undefined;
  }

  /** From here on the event loop answers: whoever calls this watches what is returned. Threads of the child that wait ask again. */
  takeBack(): Uffd | undefined {
    if (this.#threads === undefined || this.#over) return undefined;
    const areas = this.#threads.stop();
    this.#letGo();
    if (this.#over) return undefined;
    this.#servedBy = 'event loop';
    const spans = areas.map(({ start, end, firstPage }) => ({
      address: start,
      byteLength: Number(end - start),
      offset: firstPage * this.pageSize,
    }));
    const moved = spans.some(({ address, offset }) => address !== this.address + BigInt(offset));
    this.#spans = Spans.of(spans, moved);
    for (let page = 0; page < this.#pages.count; page++) {
      if (this.#pages.state(page) === GUEST_PAGE.loading) this.#pages.set(page, GUEST_PAGE.absent);
      else if (this.#pages.isResident(page)) this.#host.residency.enter(this, page);
    }
    for (const { address, byteLength } of spans) this.#soon(() => this.#uffd.wake({ address, byteLength }));
    return this.#uffd;
  }

  #failedThere(page: number | undefined, error: GuestError): void {
    const { pid } = this.#host;
    if (page === undefined) {
      this.#host.broken(new GuestError('ERR_PAGEFAULT_GUEST_GONE', error.message, { cause: error, pid }));
      return;
    }
    const { cause = error } = error; // the segment's, where it is known
    const sentence = `page ${page} of region ${this.index} of process ${pid} cannot be had: ${reasonOf(cause)}`;
    this.#host.pageFailed(this, page, new GuestError('ERR_PAGEFAULT_GUEST_GONE', sentence, { cause, pid }));
  }

  /** Unmapped, or another program's now. Of a process that has ended, whoever waits for that hears. */
  #goneThere(): void {
    if (!this.#over && this.#host.isAlive?.() !== false) this.#unmapped();
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
    this.#batch = events.length > 1;
    if (this.#batch) this.#applyChanges(events);
    for (const event of events) {
      if (this.#over) return;
      if (event.type === 'pagefault') this.#fault(event, since);
      else if (!this.#batch) this.#change(event);
    }
    if (this.#batch) this.#fresh.clear();
    this.#batch = false;
    if (!this.#over) this.#loader.tryAgain();
  }

  /** More than one buffer's worth: as many as there are threads that wait, and, as these go on, no end of it. */
  #readRest(events: UffdEvent[]): UffdEvent[] {
    for (let reads = 1; reads < READS; reads++) {
      const more = this.#uffd.readEvents(this.#messages);
      events.push(...more);
      if (more.length < MESSAGES) break;
    }
    return events;
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

  /**
   * The child gave memory up. The kernel says so before it is done: a page that comes back at once may go once more without another word, and
   * `#lookAgain` finds out. Of a page that is on its way, what the pager has kept is not what is to come.
   */
  #removed(begin: number, end: number): void {
    const first = Math.floor(begin / this.pageSize);
    const last = Math.min(this.#pages.count, Math.ceil(end / this.pageSize));
    let count = 0;
    for (let page = first; page < last; page++) {
      const at = page * this.pageSize;
      if (begin > at || end < at + this.pageSize) {
        this.#removedPart(page, Math.max(0, begin - at), Math.min(this.pageSize, end - at));
        continue;
      }
      const state = this.#pages.state(page);
      if (state === GUEST_PAGE.evicting) {
        this.#removedPart(page, 0, this.pageSize);
        continue;
      }
      this.#givenUp.forget(page);
      if (state === GUEST_PAGE.loading) continue;
      if (state !== GUEST_PAGE.absent) count += 1;
      const resident = this.#pages.isResident(page);
      this.#pages.set(page, GUEST_PAGE.absent);
      if (resident) this.#host.residency.leave(this);
    }
    if (count === 0) return;
    this.#host.counters.removed += count;
    this.tell({ type: 'removed', page: Math.ceil(begin / this.pageSize), count });
  }

  #removedPart(page: number, begin: number, end: number): void {
    this.#givenUp.add(page, Math.ceil(begin / this.step), Math.floor(end / this.step));
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
    const state = this.#pages.state(page);
    if (state === GUEST_PAGE.loading || state === GUEST_PAGE.evicting) {
      counters.duplicates += 1;
      this.#wanted.set(page, load);
      return;
    }
    if (this.#pages.isResident(page)) {
      this.#lookAgain(load);
      return;
    }
    counters.faults += 1;
    this.#demand(load);
    if (this.#host.policy.strategy === 'read-ahead') this.#readAhead(page);
  }

  #newLoad(page: number, write: boolean, ahead: boolean, since: number): Load {
    return {
      page,
      write,
      ahead,
      since,
      deadline: since + this.#host.faultTimeoutMs,
      before: undefined,
      begun: false,
      failed: 0,
    };
  }

  /**
   * A fault for a page that is there. Another thread's, whose message was read with the first one's: it looks again and finds it. Or the page
   * went, or a part of it, after it had come: COPY leaves alone what is there.
   */
  #lookAgain(load: Load): void {
    const { page } = load;
    if (this.#fresh.has(page)) {
      this.#host.counters.duplicates += 1;
      const range = this.rangeOf(page);
      if (range !== undefined) this.#uffd.wake(range);
      return;
    }
    const before = this.#pages.state(page);
    this.#givenUp.mark(page);
    this.#pages.set(page, GUEST_PAGE.loading);
    this.#loader.load({ ...load, before });
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
    const state = this.#pages.state(page);
    const range = this.rangeOf(page);
    if (state === GUEST_PAGE.evicting || range === undefined) return; // woken when the page is gone: then it is a miss
    if (state === GUEST_PAGE.present) {
      this.#host.counters.writeFaults += 1;
      this.#pages.set(page, GUEST_PAGE.dirty);
      this.#pages.saved.delete(page);
      this.tell({ type: 'written', page });
    }
    this.#soon(() => this.#allowWrites(page, range));
  }

  /**
   * Looks again, because it may run late. A page that is being evicted by then stays protected, or the write would be lost. One that came
   * anew stays so too, and faults again. Where none should be, none is watched.
   */
  #allowWrites(page: number, range: Range): void {
    const state = this.#pages.state(page);
    if (state === GUEST_PAGE.evicting) return;
    if (state === GUEST_PAGE.present || state === GUEST_PAGE.loading) this.#uffd.wake(range);
    else this.#uffd.removeWriteProtection(range);
  }

  /** A page cannot be had: whoever touches it gets SIGBUS. */
  poison(range: Range, failure: Error): void {
    const broken = (cause: unknown): Error =>
      new GuestError('ERR_PAGEFAULT_GUEST_GONE', `${failure.message}, nor poisoned`, { cause, pid: this.#host.pid });
    this.#soon(() => this.#uffd.poison(range), broken);
  }

  #soon(call: () => void, failure: (cause: unknown) => Error = asError): void {
    const deadline = performance.now() + this.#host.faultTimeoutMs;
    eventually(this, deadline, call).catch((error) => this.#host.broken(failure(error)));
  }

  /* --- loading ------------------------------------------------------------------------------------------------------- */

  #demand(load: Load): void {
    const { policy, residency, counters } = this.#host;
    const { page } = load;
    if (this.#pages.state(page) === GUEST_PAGE.evicted) counters.reloads += 1;
    this.#pages.set(page, GUEST_PAGE.loading);
    this.#queued.add(page);
    const begin = (): void => {
      if (!this.#queued.delete(page) || this.#over) return;
      residency.enter(this, page);
      this.#loader.load(load);
    };
    if (policy.strategy === 'budget') residency.whenRoom(this, begin);
    else begin();
  }

  #readAhead(page: number): void {
    const last = Math.min(this.#pages.count, page + this.#host.policy.readahead);
    const now = performance.now();
    for (let next = page + 1; next < last; next++) {
      if (this.#pages.state(next) === GUEST_PAGE.absent) this.#demand(this.#newLoad(next, false, true, now));
    }
  }

  /** A page that was on its way has come, or will not. */
  settled(page: number): void {
    if (this.#batch) this.#fresh.add(page);
    if (this.#wanted.size > 0) this.#wanted.delete(page);
    this.#host.residency.settled();
    if (this.#settling.length > 0) this.#settle();
  }

  /** A page that was read ahead cannot be had. Who has asked for it meanwhile gets tries of his own. */
  notComing(page: number): void {
    const wanted = this.#wanted.get(page);
    this.#pages.set(page, GUEST_PAGE.absent);
    this.#host.residency.leave(this);
    this.settled(page);
    if (wanted === undefined || this.#over) return;
    this.#host.counters.faults += 1;
    this.#demand(wanted);
  }

  #settle(): void {
    for (const resolve of this.#settling.splice(0)) resolve();
  }

  /** Brings every page that is not there, as long as the strategy is `eager`. Resolves when each is, or cannot be had. */
  async loadAll(): Promise<void> {
    if (this.#threads !== undefined) {
      await this.#threads.bringAll(() => this.#threads !== undefined && this.#host.policy.strategy === 'eager');
      if (this.#servedBy === 'threads') return;
    }
    const isWanted = (): boolean => !this.#over && this.#host.policy.strategy === 'eager';
    for (let page = 0; page < this.#pages.count && isWanted(); page++) {
      const state = this.#pages.state(page);
      if (state === GUEST_PAGE.absent || state === GUEST_PAGE.evicted) {
        this.#demand(this.#newLoad(page, false, true, performance.now()));
      }
      if (page % BATCH === BATCH - 1) await turn();
      while (this.#pages.loading >= BATCH && isWanted()) await this.#nextSettled();
    }
    while (this.#pages.loading > 0 && isWanted()) await this.#nextSettled();
  }

  #nextSettled(): Promise<void> {
    return new Promise((resolve) => this.#settling.push(resolve));
  }

  /* --- evicting ------------------------------------------------------------------------------------------------------ */

  set answered(value: boolean) {
    this.#answered = value;
    this.#host.residency.settled();
  }

  /** Whether a page may leave: now, not while it is on its way, or not at all since it is not there. */
  mayEvict(page: number): 'now' | 'later' | 'gone' {
    const state = this.#pages.state(page);
    if (!this.#answered && this.#pages.isResident(page)) return 'later';
    if (state === GUEST_PAGE.loading || state === GUEST_PAGE.evicting) return 'later';
    return this.#pages.isResident(page) && this.writeProtect ? 'now' : 'gone';
  }

  /** Takes pages away: each of them may leave `now`. */
  async evict(pages: readonly number[]): Promise<void> {
    await this.#evictor.evict(pages);
  }

  /** Somebody may have asked for the page while it was being taken away. */
  #serveWanted(page: number): void {
    const wanted = this.#wanted.get(page);
    if (wanted === undefined || this.#over) return;
    this.#wanted.delete(page);
    this.#host.counters.faults += 1;
    this.#demand({ ...wanted });
  }

  /** Tells whoever listens. Callers that would build much for it look at `observe` first. */
  tell(event: PageEvent): void {
    const { observe, pid } = this.#host;
    observe?.({ ...event, pid, region: this.index } as PagingEvent);
  }
}
