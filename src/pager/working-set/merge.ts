/** Working sets of several runs as one: the union, with a count of how often each page was seen. Any thread. */

import { wrongType } from '../../errors/argument.js';
import { distrust } from './trust.js';
import { DEFAULT_CAP, pagesWithin, type SeenPages, toPages, toRuns, type WorkingSet } from './working-set.js';

export interface MergeOptions {
  /**
   * Bytes of pages that are kept. What was seen least often goes first, and of that what was touched last.
   * @default 1 GiB
   */
  cap?: number;
}

/** Each page once: the earliest time, and all of its counts. */
function unite(sets: readonly WorkingSet[]): SeenPages {
  const columns = sets.map((set) => toPages(set.runs));
  const most = columns.reduce((sum, { pages }) => sum + pages.length, 0);
  const united = { pages: new Uint32Array(most), atUs: new Float64Array(most), seen: new Uint32Array(most) };
  const places = new Map<number, number>();
  for (const { pages, atUs, seen } of columns) {
    for (const [i, page] of pages.entries()) {
      const at = atUs[i] ?? 0;
      const known = places.get(page);
      const place = known ?? places.size;
      if (known === undefined) places.set(page, place);
      united.pages[place] = page;
      united.atUs[place] = known === undefined ? at : Math.min(at, united.atUs[place] ?? 0);
      united.seen[place] = (united.seen[place] ?? 0) + (seen[i] ?? 0);
    }
  }
  return pick(united, indices(places.size));
}

function indices(length: number): Uint32Array {
  return Uint32Array.from({ length }, (_, i) => i);
}

/** The rows with these numbers, in this order. */
function pick(columns: SeenPages, rows: Uint32Array): SeenPages {
  return {
    pages: rows.map((row) => columns.pages[row] ?? 0),
    atUs: Float64Array.from(rows, (row) => columns.atUs[row] ?? 0),
    seen: rows.map((row) => columns.seen[row] ?? 0),
  };
}

/** The rows that matter most, in order of first touch. */
function limit(columns: SeenPages, most: number): SeenPages {
  const { atUs, seen } = columns;
  const earlier = (a: number, b: number): number => (atUs[a] ?? 0) - (atUs[b] ?? 0) || a - b;
  let rows = indices(columns.pages.length);
  if (rows.length > most) {
    rows = rows.sort((a, b) => (seen[b] ?? 0) - (seen[a] ?? 0) || earlier(a, b)).slice(0, most);
  }
  return pick(columns, rows.sort(earlier));
}

/**
 * The union of working sets of one snapshot. A page counts as first touched when it was in whichever run touched it soonest. Throws a
 * WorkingSetError where one is of another snapshot than the first.
 */
export function mergeWorkingSets(sets: readonly WorkingSet[], { cap = DEFAULT_CAP }: MergeOptions = {}): WorkingSet {
  const [first] = sets;
  if (first === undefined) throw wrongType('mergeWorkingSets(): there must be at least one working set');
  for (const set of sets) {
    const reason = distrust(set, first);
    if (reason !== undefined) throw reason;
  }
  const { identity, byteLength, pageSize } = first;
  const all = unite(sets);
  const kept = limit(all, pagesWithin(cap, pageSize));
  return {
    identity,
    byteLength,
    pageSize,
    recordings: sets.reduce((sum, { recordings }) => sum + recordings, 0),
    dropped: Math.max(all.pages.length - kept.pages.length, ...sets.map(({ dropped }) => dropped)),
    runs: toRuns(kept),
  };
}
