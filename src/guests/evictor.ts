/**
 * Takes pages of a region away. No write is lost: each page is protected first, then what was written is copied out, then it is dropped in the child; a
 * thread that writes in between waits for its page to be gone and faults again. The pager's thread.
 */

import type { Range, Uffd } from '../kernel/index.js';
import { pageSize } from '../kernel/range.js';
import { eventually } from './eventually.js';
import type { GivenUp } from './given-up.js';
import { GUEST_PAGE } from './pages.js';
import type { GuestRegion, RegionHost } from './region.js';

interface Run {
  readonly first: number;
  count: number;
  range: Range;
}

export class Evictor {
  readonly #region: GuestRegion;
  readonly #uffd: Uffd;
  readonly #host: RegionHost;
  readonly #givenUp: GivenUp;
  /** The page has gone, and whoever asked for it meanwhile is to be served. */
  readonly #gone: (page: number) => void;

  constructor(region: GuestRegion, uffd: Uffd, host: RegionHost, givenUp: GivenUp, gone: (page: number) => void) {
    this.#region = region;
    this.#uffd = uffd;
    this.#host = host;
    this.#givenUp = givenUp;
    this.#gone = gone;
  }

  async evict(pages: readonly number[]): Promise<void> {
    await Promise.all(this.#runs(pages).map((run) => this.#evictRun(run)));
  }

  async #evictRun({ first, count, range }: Run): Promise<void> {
    const { pages } = this.#region;
    const before = pages.states.slice(first, first + count);
    for (let page = first; page < first + count; page++) pages.set(page, GUEST_PAGE.evicting);
    let isProtected: boolean;
    try {
      const deadline = performance.now() + this.#host.faultTimeoutMs;
      isProtected = await eventually(this.#region, deadline, () => this.#uffd.writeProtect(range));
      if (this.#region.over) return;
      for (let i = 0; i < count && isProtected; i++) {
        if (before[i] !== GUEST_PAGE.present) this.#save(first + i, range.address + BigInt(i * this.#region.pageSize));
      }
      if (isProtected) await this.#host.drop(range.address, range.byteLength);
    } catch (error) {
      if (this.#region.over) return;
      // They are still there. What nobody knows is `open`; a write fault is answered in either state.
      for (let i = 0; i < count; i++) pages.set(first + i, before[i] ?? GUEST_PAGE.open);
      this.#uffd.wake(range);
      throw error;
    }
    if (!isProtected && count > 1) {
      await this.#evictEach(first, before);
      return;
    }
    for (let i = 0; i < count && !this.#region.over; i++) this.#evicted(first + i);
    if (!this.#region.over) this.#uffd.wake(range); // whoever waited to write
  }

  /** One of them is not the child's any more, and those behind it are not protected: each for itself. That one has gone as it is. */
  async #evictEach(first: number, before: Uint8Array): Promise<void> {
    const each = [...before].map((state, i) => {
      if (this.#region.rangeOf(first + i) === undefined) return this.#evicted(first + i);
      this.#region.pages.set(first + i, state);
      return this.evict([first + i]);
    });
    await Promise.all(each);
  }

  /** Of what is missing by now the child has given up, the store has what it is. */
  #save(page: number, address: bigint): void {
    const bytes = new Uint8Array(this.#region.pageSize);
    const missing = this.#host.copyOut(address, bytes);
    if (missing.size * pageSize() === bytes.byteLength) return;
    this.#region.pages.saved.set(page, { bytes, holes: missing });
    this.#host.counters.saves += 1;
  }

  #evicted(page: number): void {
    this.#region.pages.set(page, GUEST_PAGE.evicted);
    const saved = this.#givenUp.settle(page);
    this.#host.counters.evictions += 1;
    this.#region.tell({ type: 'evicted', page, saved });
    this.#host.residency.leave(this.#region);
    this.#gone(page);
  }

  /** Pages in runs that lie beside each other in the child, so that each run is one call. */
  #runs(pages: readonly number[]): Run[] {
    const runs: Run[] = [];
    for (const page of [...pages].sort((a, b) => a - b)) {
      const range = this.#region.rangeOf(page);
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
}

function endOf(range: Range): bigint {
  return range.address + BigInt(range.byteLength);
}
