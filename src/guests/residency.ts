/**
 * The budget of a process: which of its pages are there, oldest first, and who waits for room. Pages leave in the order in which they
 * came. One thread, the pager's.
 */

import type { GuestRegion } from './region.js';

interface Resident {
  readonly region: GuestRegion;
  readonly page: number;
}

/** With fewer, two pages that one instruction needs would chase each other out; each further thread needs two more. */
const LEAST_PAGES = 4;

/** Each may be a message of its own, and what has not been read yet waits in the socket. */
const MOST_AT_ONCE = 128;

export class Residency {
  /** In order of arrival, where there is a limit. A page that went and came again has two entries; the first finds it gone, or takes it early. */
  #queue: Resident[] = [];
  #head = 0;
  #bytes = 0;
  #limit = Number.POSITIVE_INFINITY;
  #evicting = false;
  readonly #waiting: (() => void)[] = [];
  readonly #threads = new Set<number>();
  readonly #regions: GuestRegion[] = [];
  readonly #failed: (error: unknown) => void;

  /** `failed` hears of an eviction that could not be done; the limit is given up then, so that nobody waits for ever. */
  constructor(failed: (error: unknown) => void) {
    this.#failed = failed;
  }

  /** The region's pages count from now on. */
  add(region: GuestRegion): void {
    this.#regions.push(region);
  }

  /** Bytes. Infinity: no limit, and no order is kept: the pages that are there when a limit is set leave in the order of their numbers. */
  set limit(bytes: number) {
    const wasBounded = this.#isBounded;
    this.#limit = bytes;
    if (wasBounded === this.#isBounded) {
      this.#makeRoom();
      return;
    }
    this.#queue = [];
    this.#head = 0;
    if (!this.#isBounded) {
      this.#admit();
      return;
    }
    for (const region of this.#regions) {
      if (region.over) continue;
      for (let page = 0; page < region.pages.count; page++) {
        if (region.mayEvict(page) !== 'gone') this.#queue.push({ region, page });
      }
    }
    this.#makeRoom();
  }

  get #isBounded(): boolean {
    return this.#limit !== Number.POSITIVE_INFINITY;
  }

  /** A thread faults: each needs room for what its next instruction touches. */
  saw(thread: number | undefined): void {
    if (thread !== undefined && this.#isBounded) this.#threads.add(thread);
  }

  /** Runs `job` when a page of the region has room: now, or when others have left. */
  whenRoom(region: GuestRegion, job: () => void): void {
    if (this.#bytes + region.pageSize <= this.#limitFor(region)) job();
    else {
      this.#waiting.push(job);
      this.#makeRoom();
    }
  }

  /** A page takes its place before its bytes are there. */
  enter(region: GuestRegion, page: number): void {
    if (this.#isBounded) this.#queue.push({ region, page });
    this.#bytes += region.pageSize;
  }

  leave(region: GuestRegion): void {
    this.#bytes -= region.pageSize;
    this.#admit();
  }

  #limitFor({ pageSize }: GuestRegion): number {
    const least = LEAST_PAGES + 2 * Math.max(0, this.#threads.size - 1);
    return Math.max(this.#limit, least * pageSize);
  }

  #admit(): void {
    while (this.#waiting.length > 0) {
      const [{ region } = {}] = this.#queue.slice(this.#head, this.#head + 1);
      if (region !== undefined && this.#bytes + region.pageSize > this.#limitFor(region)) break;
      this.#waiting.shift()?.();
    }
  }

  #makeRoom(): void {
    if (this.#evicting) return;
    const victims = this.#victims();
    if (victims.size === 0) return;
    this.#evicting = true;
    const all = [...victims].map(([region, pages]) => region.evict(pages));
    Promise.all(all)
      .catch((error) => {
        this.limit = Number.POSITIVE_INFINITY;
        this.#failed(error);
      })
      .finally(() => {
        this.#evicting = false;
        this.#admit();
        if (this.#waiting.length > 0) this.#makeRoom();
      });
  }

  /** The oldest, so many that an eighth of the budget is free: a round trip to the child for each page would cost more than the page. */
  #victims(): Map<GuestRegion, number[]> {
    const victims = new Map<GuestRegion, number[]>();
    let freed = 0;
    let count = 0;
    for (let left = this.#queue.length - this.#head; left > 0; left--) {
      const { region, page } = this.#queue[this.#head] as Resident;
      const limit = this.#limitFor(region);
      const goal = this.#waiting.length > 0 ? limit - Math.max(region.pageSize, limit / 8) : limit;
      if (this.#bytes - freed <= goal || count === MOST_AT_ONCE) break;
      count += 1;
      this.#head += 1;
      const how = region.mayEvict(page);
      if (how === 'later') this.#queue.push({ region, page });
      if (how !== 'now') continue;
      freed += region.pageSize;
      const pages = victims.get(region);
      if (pages === undefined) victims.set(region, [page]);
      else pages.push(page);
    }
    if (this.#head > 1024 && this.#head * 2 > this.#queue.length) {
      this.#queue = this.#queue.slice(this.#head);
      this.#head = 0;
    }
    return victims;
  }
}
