/**
 * What a child has given up (madvise, munmap) of pages in parts, or while they were being taken away. The kernel says so before it is done, and a
 * part that has gone is the store's again, not what the pager has kept of it. Plain data; the pager's thread.
 */

import { GUEST_PAGE, type Pages } from './pages.js';

export class GivenUp {
  readonly #pages: Pages;
  /** Parts of a page: the kernel's own pages in it, which COPY and madvise cannot divide. */
  readonly #parts: number;
  /** Of pages that are there, parts that the child gives up, and that perhaps have not gone yet. */
  readonly #holes = new Map<number, Set<number>>();
  /** Of pages in state EVICTING: how often each part was given up. Once is the echo of our own DROP, which the child does part by part. */
  readonly #echoes = new Map<number, Uint8Array>();

  constructor(pages: Pages, parts: number) {
    this.#pages = pages;
    this.#parts = parts;
  }

  /** Parts `[first, last)` of a page. What has gone of a page that is there is found out when it is touched. */
  add(page: number, first: number, last: number): void {
    const { saved } = this.#pages;
    if (this.#pages.state(page) === GUEST_PAGE.evicting) {
      const echoes = this.#echoes.get(page) ?? new Uint8Array(this.#parts);
      for (let part = first; part < last; part++) echoes[part] = Math.min(2, (echoes[part] ?? 0) + 1);
      this.#echoes.set(page, echoes);
      return;
    }
    const resident = this.#pages.isResident(page);
    const holes = resident ? (this.#holes.get(page) ?? new Set()) : saved.get(page)?.holes;
    if (holes === undefined) return;
    for (let part = first; part < last; part++) holes.add(part);
    if (resident) this.#holes.set(page, holes);
  }

  /** The whole page has gone. */
  forget(page: number): void {
    this.#pages.saved.delete(page);
    this.#holes.delete(page);
  }

  /** What the child gave up of a page is the store's, not what the pager has kept. */
  mark(page: number): void {
    const holes = this.#holes.get(page);
    if (holes === undefined) return;
    this.#holes.delete(page);
    const saved = this.#pages.saved.get(page);
    for (const part of holes) saved?.holes.add(part);
  }

  /** A page was taken away: whether the pager has bytes of it. What the child gave up meanwhile, it meant to lose. */
  settle(page: number): boolean {
    this.mark(page);
    const saved = this.#pages.saved.get(page);
    const echoes = this.#echoes.get(page);
    this.#echoes.delete(page);
    for (const [part, count] of (echoes ?? []).entries()) if (count > 1) saved?.holes.add(part);
    if (saved?.holes.size === this.#parts) this.#pages.saved.delete(page);
    return this.#pages.saved.has(page);
  }
}
