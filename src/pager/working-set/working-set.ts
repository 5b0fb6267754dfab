/**
 * A working set: the pages that were touched in one run or in several, in order of first touch, with the times and with how often each was
 * seen. Neighbours that were touched one after the other are kept as one run of pages. Plain data, any thread.
 */

/** What a working set belongs to. */
export interface SnapshotFacts {
  /** 64 hexadecimal digits: a SHA-256 over what tells this snapshot from any other. */
  readonly identity: string;
  readonly byteLength: number;
  /** Bytes of a page: a power of two, at least 4096. */
  readonly pageSize: number;
}

/** Pages in order of first touch: columns of equal length. */
export interface Touched {
  /** Numbers of pages in the snapshot, each once. */
  readonly pages: Uint32Array;
  /** When each was first touched: µs since the run began. */
  readonly atUs: Float64Array;
}

/** The same, and in how many recordings each page was seen. */
export interface SeenPages extends Touched {
  readonly seen: Uint32Array;
}

/** Runs of neighbouring pages in order of first touch: columns of equal length. */
export interface PageRuns {
  /** Number of the first page. */
  readonly first: Uint32Array;
  readonly count: Uint32Array;
  /** When the first page was first touched: µs since the run began. */
  readonly atUs: Float64Array;
  /** From then until the last page was touched, in µs. */
  readonly spanUs: Uint32Array;
  /** In how many recordings its pages were seen. */
  readonly seen: Uint32Array;
}

export interface WorkingSet extends SnapshotFacts {
  /** How many recordings it unites. */
  readonly recordings: number;
  /** Pages that were touched and left out, because the cap was reached. */
  readonly dropped: number;
  readonly runs: PageRuns;
  /** The file that it was read from. */
  readonly path?: string;
}

/** What a working set holds at most unless something else is asked for, in bytes of pages: 1 GiB. */
export const DEFAULT_CAP: number = 2 ** 30;

/** No working set has more pages, whatever its cap: 64 GiB of 4 KiB pages. A hostile file must not fill the memory. */
export const MOST_TOUCHED: number = 2 ** 24;

const LONGEST_SPAN = 2 ** 32 - 1;

/** How many pages a cap in bytes allows. */
export function pagesWithin(cap: number, pageSize: number): number {
  return Math.min(MOST_TOUCHED, Math.floor(cap / pageSize));
}

/** How many pages a snapshot has. */
export function pageCountOf({ byteLength, pageSize }: Omit<SnapshotFacts, 'identity'>): number {
  return Math.ceil(byteLength / pageSize);
}

/** How many pages the runs have. */
export function countRunPages({ count }: PageRuns): number {
  return count.reduce((sum, pages) => sum + pages, 0);
}

/** Where each run ends, exclusive: the page behind belongs to another one, was not touched next, or was seen more or less often. */
function endsOfRuns({ pages, atUs, seen }: SeenPages): number[] {
  const ends: number[] = [];
  let began = 0;
  for (let i = 1; i <= pages.length; i++) {
    const goesOn =
      i < pages.length &&
      pages[i] === (pages[i - 1] ?? 0) + 1 &&
      seen[i] === seen[i - 1] &&
      (atUs[i] ?? 0) - (atUs[began] ?? 0) <= LONGEST_SPAN;
    if (goesOn) continue;
    ends.push(i);
    began = i;
  }
  return pages.length === 0 ? [] : ends;
}

/** Pages as runs. Within a run only the first and the last time are kept. */
export function toRuns(touched: SeenPages): PageRuns {
  const ends = endsOfRuns(touched);
  const { length } = ends;
  const runs = {
    first: new Uint32Array(length),
    count: new Uint32Array(length),
    atUs: new Float64Array(length),
    spanUs: new Uint32Array(length),
    seen: new Uint32Array(length),
  };
  let began = 0;
  for (const [i, end] of ends.entries()) {
    const at = touched.atUs[began] ?? 0;
    runs.first[i] = touched.pages[began] ?? 0;
    runs.count[i] = end - began;
    runs.atUs[i] = at;
    runs.spanUs[i] = Math.max(0, (touched.atUs[end - 1] ?? 0) - at);
    runs.seen[i] = touched.seen[began] ?? 0;
    began = end;
  }
  return runs;
}

/** Runs as pages; the times within a run lie evenly between its first and its last. */
export function toPages(runs: PageRuns): SeenPages {
  const total = countRunPages(runs);
  const pages = new Uint32Array(total);
  const atUs = new Float64Array(total);
  const seen = new Uint32Array(total);
  let at = 0;
  for (const [i, first] of runs.first.entries()) {
    const count = runs.count[i] ?? 0;
    const step = (runs.spanUs[i] ?? 0) / Math.max(1, count - 1);
    for (let j = 0; j < count; j++, at++) {
      pages[at] = first + j;
      atUs[at] = (runs.atUs[i] ?? 0) + j * step;
      seen[at] = runs.seen[i] ?? 0;
    }
  }
  return { pages, atUs, seen };
}

/** Each page once, where it came first, and only pages that the snapshot has. */
function sound(snapshot: SnapshotFacts, { pages, atUs }: Touched): Touched {
  const pageCount = pageCountOf(snapshot);
  const seen = new Set<number>();
  const keep = pages.map((page) => {
    if (page >= pageCount || seen.has(page)) return 0;
    seen.add(page);
    return 1;
  });
  const isKept = (_: unknown, i: number): boolean => keep[i] === 1;
  return { pages: pages.filter(isKept), atUs: atUs.filter(isKept).map((us) => (us > 0 ? us : 0)) };
}

/** The working set of one run: what it touched, in order; of more than `cap` bytes of pages only the first. */
export function recordWorkingSet(snapshot: SnapshotFacts, touched: Touched, cap: number = DEFAULT_CAP): WorkingSet {
  const { identity, byteLength, pageSize } = snapshot;
  const { pages, atUs } = sound(snapshot, touched);
  const kept = Math.min(pages.length, pagesWithin(cap, pageSize));
  const runs = toRuns({
    pages: pages.subarray(0, kept),
    atUs: atUs.subarray(0, kept),
    seen: new Uint32Array(kept).fill(1),
  });
  return { identity, byteLength, pageSize, recordings: 1, dropped: pages.length - kept, runs };
}
