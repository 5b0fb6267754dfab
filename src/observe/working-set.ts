/** A working set as text: how much it is, when its pages are needed, how often each was seen, and where they lie in the snapshot. */

import {
  countRunPages,
  type PageRuns,
  pageCountOf,
  pairsOf,
  replayPages,
  toPages,
  type WorkingSet,
} from '../pager/working-set/index.js';
import { formatBytes, formatCount, formatQuantity } from './format.js';
import { renderHistogram } from './histogram.js';
import { drawPageMap, layOutMap, mapWidth, type PageCounts } from './page-map.js';
import { plainTerminal, type Terminal } from './terminal.js';

const ROWS = 6;
const NONE = { unicode: '·', ascii: '.' } as const;

/** The numbers of a working set. */
export interface WorkingSetSummary {
  identity: string;
  byteLength: number;
  pageSize: number;
  recordings: number;
  /** Pages, in how many runs of neighbours, and pages that the cap left out. */
  pages: number;
  runs: number;
  dropped: number;
  /** What would be loaded ahead, and in how many runs of neighbours. */
  ahead: { pages: number; runs: number };
  /** µs until half, nine tenths and all of the pages had been touched. */
  withinUs: { half: number; most: number; all: number };
  /** How many pages were seen in how many of the recordings. */
  seen: Record<string, number>;
}

/** The time by which this share of the pages had been touched. */
function timeOf(times: Float64Array, share: number): number {
  return times[Math.max(0, Math.ceil(times.length * share) - 1)] ?? 0;
}

/** How many pages were seen in how many recordings. Only counts that occur take room, because a hostile file may say anything. */
function countSeen({ seen, count }: PageRuns): Map<number, number> {
  const counts = new Map<number, number>();
  for (const [i, times] of seen.entries()) counts.set(times, (counts.get(times) ?? 0) + (count[i] ?? 0));
  return new Map([...counts].sort(([a], [b]) => b - a));
}

/** The numbers of a working set, for JSON. */
export function summarizeWorkingSet(set: WorkingSet): WorkingSetSummary {
  const { identity, byteLength, pageSize, recordings, dropped, runs } = set;
  const times = toPages(runs).atUs.sort();
  const ahead = replayPages(set);
  return {
    identity,
    byteLength,
    pageSize,
    recordings,
    pages: countRunPages(runs),
    runs: runs.first.length,
    dropped,
    ahead: { pages: ahead.length, runs: pairsOf(ahead).length / 2 },
    withinUs: { half: timeOf(times, 0.5), most: timeOf(times, 0.9), all: timeOf(times, 1) },
    seen: Object.fromEntries(countSeen(runs)),
  };
}

/** Calls back for each cell that a run reaches into: how many of its pages lie there. */
function eachCell(runs: PageRuns, pageCount: number, cells: number, call: (cell: number, pages: number) => void): void {
  for (const [run, first] of runs.first.entries()) {
    const end = first + (runs.count[run] ?? 0);
    for (let page = first; page < end; ) {
      const cell = Math.floor((page * cells) / pageCount);
      const next = Math.min(end, Math.ceil(((cell + 1) * pageCount) / cells));
      call(cell, next - page);
      page = next;
    }
  }
}

/** Cells of the snapshot, with the pages of the working set counted as present. */
function cellsOf(set: WorkingSet, cells: number): PageCounts[] {
  const pageCount = pageCountOf(set);
  const start = (cell: number): number => Math.ceil((cell * pageCount) / cells);
  const counts = Array.from({ length: cells }, (_, i) => ({
    pages: start(i + 1) - start(i),
    present: 0,
    staged: 0,
    failed: 0,
    pinned: 0,
  }));
  eachCell(set.runs, pageCount, cells, (cell, pages) => {
    const counted = counts[cell];
    if (counted !== undefined) counted.present += pages;
  });
  return counts;
}

/** For each cell in which tenth of the order its first page comes; -1 where there is none. */
function tenthsOf(set: WorkingSet, cells: number): Int8Array {
  const tenths = new Int8Array(cells).fill(-1);
  const total = countRunPages(set.runs);
  let before = 0;
  eachCell(set.runs, pageCountOf(set), cells, (cell, pages) => {
    if (tenths[cell] === -1) tenths[cell] = Math.floor((10 * before) / total);
    before += pages;
  });
  return tenths;
}

/** The map of the order: a digit a cell, 0 for what is needed first. */
function renderOrder(set: WorkingSet, cells: number, terminal: Terminal): string[] {
  const tenths = tenthsOf(set, cells);
  const none = terminal.unicode ? NONE.unicode : NONE.ascii;
  return layOutMap(set.byteLength, cells, terminal, (first, end) =>
    Array.from(tenths.subarray(first, end), (tenth) => (tenth < 0 ? none : String(tenth))).join(''),
  );
}

/** Pages by the time of their first touch, in powers of two of nanoseconds, from a microsecond on. */
function renderTimes({ runs }: WorkingSet, terminal: Terminal): string[] {
  const buckets = new Array<number>(64).fill(0);
  for (const us of toPages(runs).atUs) {
    const bucket = Math.floor(Math.log2(1000 * Math.max(1, us)));
    buckets[bucket] = (buckets[bucket] ?? 0) + 1;
  }
  return renderHistogram(buckets, terminal);
}

const MOST_COUNTS = 8;

function renderSeen(set: WorkingSet): string[] {
  const counts = [...countSeen(set.runs)];
  const shown = counts.length > MOST_COUNTS ? counts.slice(0, MOST_COUNTS - 1) : counts;
  const lines = shown.map(
    ([times, pages]) =>
      `  in ${formatCount(times)} of ${formatCount(set.recordings)}: ${formatQuantity(pages, 'page')}`,
  );
  const rest = counts.slice(shown.length).reduce((sum, [, pages]) => sum + pages, 0);
  return rest === 0 ? lines : [...lines, `  in fewer: ${formatQuantity(rest, 'page')}`];
}

/** The whole picture in lines. */
export function renderWorkingSet(set: WorkingSet, terminal: Terminal = plainTerminal()): string[] {
  const { pages, runs, dropped, ahead } = summarizeWorkingSet(set);
  const { byteLength, pageSize, recordings, identity } = set;
  const heading = (text: string): string => terminal.paint('bold', text);
  const row = (label: string, value: string): string => `${heading(label.padEnd(9))} ${value}`;
  const share = (100 * pages) / pageCountOf(set);
  const left = dropped === 0 ? '' : `; ${formatCount(dropped)} more were left out`;
  const lines = [
    row('snapshot', `${identity.slice(0, 16)}…, ${formatBytes(byteLength)} in pages of ${formatBytes(pageSize)}`),
    row('recorded', `${formatQuantity(recordings, 'run')}`),
    row(
      'touched',
      `${formatQuantity(pages, 'page')}, ${formatBytes(pages * pageSize)}, ${share.toFixed(1)} % of the snapshot${left}`,
    ),
    row('order', `${formatQuantity(runs, 'stretch', 'stretches')} of neighbours touched one after the other`),
    row(
      'ahead',
      `${formatQuantity(ahead.pages, 'page')}, ${formatBytes(ahead.pages * pageSize)}, in ${formatQuantity(ahead.runs, 'stretch', 'stretches')}`,
    ),
  ];
  if (pages === 0) return lines;
  const cells = Math.min(pageCountOf(set), mapWidth(terminal) * ROWS);
  const words = { absent: 'never touched', present: 'touched' };
  return [
    ...lines,
    ...['', heading('Time of first touch, pages'), ...renderTimes(set, terminal)],
    ...['', heading('Seen'), ...renderSeen(set)],
    ...['', heading('Where'), ...drawPageMap({ byteLength, pageSize, cells: cellsOf(set, cells), words }, terminal)],
    ...['', heading('When: 0 the first tenth of the pages, 9 the last'), ...renderOrder(set, cells, terminal)],
  ];
}
