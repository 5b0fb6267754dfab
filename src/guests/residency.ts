/**
 * The budget of a process: which of its pages are there, oldest first, and who waits for room. Pages leave in the order in which they
 * came. One thread, the pager's.
 */

import type { GuestRegion } from './region.js';

interface Resident {
  readonly region: GuestRegion;
  readonly page: number;
}

interface Waiting {
  readonly region: GuestRegion;
  readonly job: () => void;
}

/** With fewer, two pages that one instruction needs would chase each other out; each further thread needs two more. */
const LEAST_PAGES = 4;

/** A thread that has not faulted for one to two times that many faults needs no room of its own. */
const FORGET_AFTER = 1024;

/** Each may be a message of its own, and what has not been read yet waits in the socket. */
const MOST_AT_ONCE = 128;

export class Residency {
  /** In order of arrival, where there is a limit. A page that went and came again has two entries; the first finds it gone, or takes it early. */
  #queue: Resident[] = [];
  #head = 0;
  #bytes = 0;
  #pages = 0;
  #limit = Number.POSITIVE_INFINITY;
  #evicting = false;
  #admitting = false;
  readonly #waiting: Waiting[] = [];
  #threads = new Set<number>();
  #earlierThreads = new Set<number>();
  #seen = 0;
  #regions: GuestRegion[] = [];
  readonly #failed: (error: unknown) => void;

  /** `failed` hears of an eviction that could not be done; the limit is given up then, so that nobody waits for ever. */
  constructor(failed: (error: unknown) => void) {
    this.#failed = failed;
  }

  /** The region's pages count from now on. */
  add(region: GuestRegion): void {
    this.#regions = [...this.#regions.filter(({ over }) => !over), region];
  }

  /** Bytes. Infinity: no limit, and no order is kept: the pages that are there when a limit is set leave in the order of their numbers. */
  set limit(bytes: number) {
    const wasBounded = this.#isBounded;
    this.#limit = bytes;
    if (wasBounded !== this.#isBounded) this.#orderAnew();
    this.#admit();
    this.#makeRoom();
  }

  #orderAnew(): void {
    this.#queue = [];
    this.#head = 0;
    if (!this.#isBounded) return;
    for (const region of this.#regions) {
      if (region.over) continue;
      for (let page = 0; page < region.pages.count; page++) {
        if (region.mayEvict(page) !== 'gone') this.#queue.push({ region, page });
      }
    }
  }

  get #isBounded(): boolean {
    return this.#limit !== Number.POSITIVE_INFINITY;
  }

  /** A thread faults: each needs room for what its next instruction touches. */
  saw(thread: number | undefined): void {
    if (thread === undefined || !this.#isBounded) return;
    this.#threads.add(thread);
    this.#seen += 1;
    if (this.#seen < FORGET_AFTER) return;
    this.#seen = 0;
    this.#earlierThreads = this.#threads;
    this.#threads = new Set();
  }

  /** Runs `job` when a page of the region has room: now, or when others have left. First come, first served. */
  whenRoom(region: GuestRegion, job: () => void): void {
    this.#waiting.push({ region, job });
    this.#admit();
    this.#makeRoom();
  }

  /** A page takes its place before its bytes are there. */
  enter(region: GuestRegion, page: number): void {
    if (this.#isBounded) this.#queue.push({ region, page });
    this.#bytes += region.pageSize;
    this.#pages += 1;
    if (this.#queue.length - this.#head > 2 * this.#pages + FORGET_AFTER) this.#compact();
  }

  leave(region: GuestRegion): void {
    this.#bytes -= region.pageSize;
    this.#pages -= 1;
    this.#admit();
  }

  /** A page that was on its way is there, or is not coming: it may leave now, and somebody may have waited for that. */
  settled(): void {
    if (this.#waiting.length > 0 || this.#bytes > this.#limit) this.#makeRoom();
  }

  #limitFor({ pageSize }: GuestRegion): number {
    const threads = Math.max(this.#threads.size, this.#earlierThreads.size);
    const least = LEAST_PAGES + 2 * Math.max(0, threads - 1);
    return Math.max(this.#limit, least * pageSize);
  }

  /** Not from within a job: what that one gives back, the loop finds. */
  #admit(): void {
    if (this.#admitting) return;
    this.#admitting = true;
    try {
      for (;;) {
        const [first] = this.#waiting;
        if (first === undefined || this.#bytes + first.region.pageSize > this.#limitFor(first.region)) return;
        this.#waiting.shift();
        first.job();
      }
    } finally {
      this.#admitting = false;
    }
  }

  #makeRoom(): void {
    if (this.#evicting || !this.#isBounded) return;
    const victims = this.#victims();
    if (victims.size === 0) return;
    this.#evicting = true;
    const all = [...victims].map(([region, pages]) => region.evict([...pages]));
    Promise.all(all)
      .catch((error) => {
        this.limit = Number.POSITIVE_INFINITY;
        this.#failed(error);
      })
      .finally(() => {
        this.#evicting = false;
        this.#admit();
        this.settled();
      })
      .catch((error) => this.#failed(error));
  }

  /** The oldest, so many that an eighth of the budget is free: a round trip to the child for each page would cost more than the page. */
  #victims(): Map<GuestRegion, Set<number>> {
    const victims = new Map<GuestRegion, Set<number>>();
    let freed = 0;
    let count = 0;
    for (let left = this.#queue.length - this.#head; left > 0; left--) {
      const { region, page } = this.#queue[this.#head] as Resident;
      const limit = this.#limitFor(region);
      const goal = this.#waiting.length > 0 ? limit - Math.max(region.pageSize, limit / 8) : limit;
      if (this.#bytes - freed <= goal || count === MOST_AT_ONCE) break;
      this.#head += 1;
      const pages = victims.get(region) ?? new Set();
      const how = pages.has(page) ? 'gone' : region.mayEvict(page);
      if (how === 'later') this.#queue.push({ region, page });
      if (how !== 'now') continue;
      count += 1;
      freed += region.pageSize;
      victims.set(region, pages.add(page));
    }
    if (this.#head > 1024 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    return victims;
  }

  /** Forgets pages that have gone, and of two entries of a page the earlier one. */
  #compact(): void {
    const known = new Map<GuestRegion, Set<number>>();
    const kept: Resident[] = [];
    for (let at = this.#queue.length - 1; at >= this.#head; at--) {
      const entry = this.#queue[at] as Resident;
      const pages = known.get(entry.region) ?? new Set();
      if (pages.has(entry.page) || entry.region.mayEvict(entry.page) === 'gone') continue;
      known.set(entry.region, pages.add(entry.page));
      kept.push(entry);
    }
    this.#queue = kept.reverse();
    this.#head = 0;
  }
}
