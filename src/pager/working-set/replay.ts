/** What of a working set is loaded ahead, and in which order. Any thread. */

import { DEFAULT_CAP, toPages, type WorkingSet } from './working-set.js';

export interface ReplayChoice {
  /**
   * Bytes of pages that are loaded ahead at most: those that were touched first.
   * @default 1 GiB
   */
  cap?: number;
  /**
   * Pages are loaded ahead that were seen in at least this share of the recordings: 0 for all, 1 for those that were seen in every one.
   * @default 0.5
   */
  share?: number;
}

/** Pages of the first group, and of the largest. A group is loaded in the order of the snapshot, so that neighbours come in one read. */
const FIRST_GROUP = 64;
const LARGEST_GROUP = 8192;

/**
 * The numbers of the pages to load ahead. On the whole in order of first touch: what is needed first comes first. But each group of
 * them, 64 pages at first and then ever more, is in order of the snapshot, because pages that lie next to each other are
 * read together, and few are touched next to each other.
 */
export function replayPages(set: WorkingSet, { cap = DEFAULT_CAP, share = 0.5 }: ReplayChoice = {}): Uint32Array {
  const { pages, seen } = toPages(set.runs);
  const least = share * set.recordings;
  const wanted = pages.filter((_, i) => (seen[i] ?? 0) >= least).slice(0, Math.floor(cap / set.pageSize));
  for (
    let first = 0, size = FIRST_GROUP;
    first < wanted.length;
    first += size, size = Math.min(2 * size, LARGEST_GROUP)
  ) {
    wanted.subarray(first, first + size).sort();
  }
  return wanted;
}

/** Neighbours in one: pairs of a page's number and a count, in the same order. */
export function pairsOf(pages: Uint32Array): Uint32Array {
  const pairs = new Uint32Array(2 * pages.length);
  let used = 0;
  for (const page of pages) {
    const follows = used > 0 && (pairs[used - 2] ?? 0) + (pairs[used - 1] ?? 0) === page;
    if (follows) {
      pairs[used - 1] = (pairs[used - 1] ?? 0) + 1;
    } else {
      pairs[used] = page;
      pairs[used + 1] = 1;
      used += 2;
    }
  }
  return pairs.slice(0, used);
}
