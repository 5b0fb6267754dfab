/**
 * A region whose faults are answered by threads of the core (`GuestEngine`), whatever the event loop does: which child may have it, its numbers and
 * the states of its pages as the rest of the pager knows them, and the way back to the event loop. The pager's thread.
 */

import type { GuestError } from '../errors/guest-error.js';
import { duplicateFd } from '../kernel/duplicate.js';
import { Memfd, PidFd, Uffd } from '../kernel/index.js';
import { pageSize as systemPageSize } from '../kernel/range.js';
import { statesBytes } from '../native/kernel/peers.js';
import type { Segment } from '../segment/index.js';
import type { Counters } from './counters.js';
import { type Guest, type GuestArea, GuestEngine, type GuestNumbers, Snapshot } from './engine/index.js';
import { turn } from './eventually.js';
import { GUEST_PAGE, type Pages } from './pages.js';
import type { RegionParts } from './region.js';
import type { GuestSource } from './source.js';

/** Pages that are asked for ahead at once: a strategy that has changed takes effect between two such lists. */
const LIST = 16_384;

/** States of the core (PF_PAGE_…), by number: what is there may have been written to. */
const STATES: readonly number[] = [
  GUEST_PAGE.absent,
  GUEST_PAGE.open,
  GUEST_PAGE.absent,
  GUEST_PAGE.failed,
  GUEST_PAGE.loading,
  GUEST_PAGE.open,
];

/** One engine for all children of this thread, as long as there are any. */
let shared: { readonly engine: GuestEngine; holders: number } | undefined;

/** The threads, and the source as they see it, for one child. */
export class Threads {
  readonly #snapshot: Snapshot;
  readonly #engine: GuestEngine;
  #closed = false;

  private constructor(snapshot: Snapshot, engine: GuestEngine) {
    this.#snapshot = snapshot;
    this.#engine = engine;
  }

  /** Undefined where there can be none: too many of them, or no thread to be had. The event loop does it then. */
  static open(segment: Segment): Threads | undefined {
    let snapshot: Snapshot | undefined;
    try {
      snapshot = Snapshot.unnamed(segment);
      shared ??= { engine: new GuestEngine(), holders: 0 };
      shared.holders += 1;
      return new Threads(snapshot, shared.engine);
    } catch {
      snapshot?.close().catch(() => {});
      return undefined;
    }
  }

  /** Undefined: the engine has no room for it, or there is no descriptor left. */
  take(parts: RegionParts, of: { pidfd: PidFd; faultTimeoutMs: number }): RegionThreads | undefined {
    try {
      return RegionThreads.add(this.#engine, this.#snapshot, parts, of);
    } catch {
      return undefined;
    }
  }

  /** What they have told so far is heard now. */
  hear(): void {
    this.#engine.hear();
  }

  /** After the regions have ended. */
  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    if (shared !== undefined) shared.holders -= 1;
    if (shared?.holders === 0) {
      shared = undefined;
      await this.#engine.close();
    }
    await this.#snapshot.close();
  }
}

/** Whether the core can have the region: its pages are the kernel's own, and all of each is in the segment or behind its end. */
export function fitsThreads(parts: RegionParts, source: GuestSource): boolean {
  const { memory, pageSize, storeOffset, byteLength } = parts;
  if ((storeOffset + byteLength) / pageSize > 2 ** 32) return false; // pages have numbers of 32 bits there
  return memory === 'hugetlb' ? storeOffset + byteLength <= source.byteLength : pageSize === systemPageSize();
}

export class RegionThreads {
  readonly #guest: Guest;
  /** The core's states outlive the guest here. */
  readonly #states: Memfd;
  readonly #raw: Uint8Array;
  readonly #firstPage: number;
  readonly #pageSize: number;

  private constructor(guest: Guest, states: Memfd, { byteLength, pageSize, storeOffset }: RegionParts) {
    this.#guest = guest;
    this.#states = states;
    this.#raw = new Uint8Array(byteLength / pageSize);
    this.#firstPage = storeOffset / pageSize;
    this.#pageSize = pageSize;
  }

  static add(
    engine: GuestEngine,
    snapshot: Snapshot,
    parts: RegionParts,
    { pidfd, faultTimeoutMs }: { pidfd: PidFd; faultTimeoutMs: number },
  ): RegionThreads {
    const { uffd, address, byteLength, pageSize, storeOffset, index } = parts;
    const made: { close(): void }[] = [];
    const keep = <T extends { close(): void }>(one: T): T => {
      made.push(one);
      return one;
    };
    try {
      const theirs = keep(Memfd.create('pagefault states', { byteLength: statesBytes(byteLength / pageSize) }));
      const states = keep(Memfd.fromFd(duplicateFd('spawnPaged', theirs.fd)));
      const guest = engine.add({
        uffd: keep(Uffd.fromFd(duplicateFd('spawnPaged', uffd.fd))),
        pidfd: keep(PidFd.fromFd(duplicateFd('spawnPaged', pidfd.fd))),
        regions: [{ address, byteLength, offset: storeOffset }],
        pageSize,
        snapshot,
        name: `region ${index} of process ${pidfd.pid}`,
        faultTimeoutMs,
        givenBack: 'snapshot',
        states: theirs,
        supervised: true, // by its own library, which ends it when this process is gone
      });
      return new RegionThreads(guest, states, parts);
    } catch (error) {
      for (const one of made) one.close();
      throw error;
    }
  }

  /** `failed`: a page, by its number in the region, cannot be had; undefined: its memory cannot be followed. The child was killed. `gone`: there is no such memory any more. */
  listen(failed: (page: number | undefined, error: GuestError) => void, gone: () => void): void {
    this.#guest.on('pageerror', (error: GuestError, { offset }: { offset: number | undefined }) =>
      failed(offset === undefined ? undefined : offset / this.#pageSize - this.#firstPage, error),
    );
    this.#guest.on('gone', gone);
  }

  numbers(): GuestNumbers {
    return this.#guest.numbers();
  }

  /** Adds what was counted. */
  count(counters: Counters): void {
    const { demand, failures, duplicates, prefetched, removed, retries, histogram, blockedUs } = this.numbers();
    counters.faults += demand + failures;
    counters.duplicates += duplicates;
    counters.pages += demand + prefetched;
    counters.bytes += (demand + prefetched) * this.#pageSize;
    counters.ahead += prefetched;
    counters.removed += removed;
    counters.retries += retries;
    counters.failures += failures;
    // Of each bucket the powers of two are known, of all together the sum.
    const least = histogram.reduce((sum, times, power) => sum + times * 2 ** power, 0);
    const share = Math.min(2, Math.max(1, (blockedUs * 1000) / least));
    for (const [power, times] of histogram.entries()) if (times > 0) counters.service.add(share * 2 ** power, times);
  }

  /** The states as they are now. */
  refresh(pages: Pages): void {
    this.#states.read(0, this.#raw);
    for (const [page, state] of this.#raw.entries()) {
      const now = STATES[state] ?? GUEST_PAGE.absent;
      if (pages.state(page) !== now) pages.set(page, now);
    }
  }

  /** Where its memory is now. Whatever the child was told is done is in it. */
  areas(): GuestArea[] {
    return this.#guest.areas();
  }

  /** Brings all pages from the first one on that are not there, as long as `isWanted`. Resolves when each is there, or cannot be had. */
  async bringAll(isWanted: () => boolean): Promise<void> {
    for (let at = 0; at < this.#raw.length && isWanted() && !this.#guest.isOver; at += LIST) {
      const count = Math.min(LIST, this.#raw.length - at);
      await this.#guest.replay(Uint32Array.from({ length: count }, (_, i) => this.#firstPage + at + i));
      await turn();
    }
  }

  /** They answer nothing more, and this is where its memory was then. */
  stop(): GuestArea[] {
    return this.#guest.areas({ stop: true });
  }

  /** The threads let go of it: no call of theirs is under way when this returns. Threads of the child that wait, wait until they are woken. Idempotent. */
  end(): void {
    this.#guest.close({ kill: false });
  }

  /** After `end`, and the last look at the states. */
  close(): void {
    this.#states.close();
  }
}
