/** Which pages were written to: learned as it happens, for the end. A page that was evicted with what was written to it is still dirty. */

export class DirtyPages {
  readonly #pages = new Set<number>();

  add(page: number): void {
    this.#pages.add(page);
  }

  /** Given up by the child, with all that was in them. */
  remove(first: number, count: number): void {
    if (this.#pages.size === 0) return;
    for (let page = first; page < first + count; page++) this.#pages.delete(page);
  }

  /** Runs of neighbouring pages, first and last of each. */
  ranges(): { pages: number; ranges: [number, number][] } {
    const ranges: [number, number][] = [];
    for (const page of [...this.#pages].sort((a, b) => a - b)) {
      const last = ranges.at(-1);
      if (last !== undefined && last[1] === page - 1) last[1] = page;
      else ranges.push([page, page]);
    }
    return { pages: this.#pages.size, ranges };
  }
}
