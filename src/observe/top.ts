/** The picture of `pagefault top`: a line a guest, the threads of the first one, the latency of all faults. Pure functions. */

import { quantile } from '../segment/stats.js';
import { formatBytes, formatCount, formatDuration, formatQuantity, formatShort } from './format.js';
import { describeLatency, renderHistogram } from './histogram.js';
import type { GuestSnapshot, ObservedService, RestoreProgress, ServerSnapshot } from './observed.js';
import { plainTerminal, type Style, type Terminal } from './terminal.js';
import { guestKey, type TopRow, type TopSort, topRows } from './top-rows.js';

export interface TopScene {
  /** Where the numbers come from. */
  readonly source: string;
  readonly now: ServerSnapshot;
  /** The look before; undefined: rates are those of all of the guests' lives. */
  readonly before?: ServerSnapshot | undefined;
  readonly sort: TopSort;
  /** The guest whose threads are shown, by `guestKey`. @default the first one, which is not marked then */
  readonly selected?: string | undefined;
  /** Lines there are; undefined: as many as it takes. */
  readonly rows?: number | undefined;
  /** In place of the keys: why there is nothing new. */
  readonly trouble?: string | undefined;
  /** The line about the keys. */
  readonly keys?: string | undefined;
}

interface Column {
  readonly title: string;
  readonly width: number;
  /** Columns of the least go first where there is no room. */
  readonly weight: number;
  readonly text: (row: TopRow, terminal: Terminal) => string;
  readonly style?: (row: TopRow) => Style | undefined;
}

interface Placed {
  readonly column: Column;
  readonly width: number;
}

const NAME_WIDTH = 8;
const WIDE = 100;
const MAX_THREADS = 8;
const MAX_LATENCY_LINES = 14;

const count = (value: number | undefined): string => (value === undefined ? '-' : formatShort(value));
const duration = (ns: number | undefined): string => (ns === undefined ? '-' : formatDuration(ns));
const percent = (share: number): string => `${Math.round(share * 100)}%`;

const COLUMNS: readonly Column[] = [
  { title: 'PID', width: 8, weight: 9, text: ({ guest }) => String(guest.pid) },
  { title: 'NAME', width: NAME_WIDTH, weight: 8, text: ({ guest }) => printable(guest.name) },
  { title: 'FLT/S', width: 5, weight: 8, text: (row) => formatShort(row.faultsPerSecond) },
  {
    title: 'BLOCK%',
    width: 6,
    weight: 8,
    text: (row) => percent(row.blocked),
    style: (row) => (row.blocked >= 0.5 ? 'yellow' : undefined),
  },
  { title: 'P50', width: 7, weight: 2, text: (row) => duration(row.p50) },
  { title: 'P99', width: 7, weight: 7, text: (row) => duration(row.p99) },
  { title: 'DEMAND', width: 6, weight: 7, text: ({ guest }) => count(guest.numbers.demand) },
  { title: 'AHEAD', width: 5, weight: 6, text: ({ guest }) => count(guest.numbers.prefetched) },
  { title: 'WASTED', width: 6, weight: 5, text: ({ guest }) => count(guest.numbers.wasted) },
  { title: 'ZERO', width: 5, weight: 5, text: ({ guest }) => count(guest.numbers.zero) },
  { title: 'DEFER', width: 5, weight: 5, text: ({ guest }) => count(guest.numbers.deferred) },
  {
    title: 'FAILED',
    width: 6,
    weight: 1,
    text: ({ guest }) => count(guest.numbers.failures),
    style: ({ guest }) => ((guest.numbers.failures ?? 0) > 0 ? 'red' : undefined),
  },
  { title: 'IN', width: 4, weight: 3, text: ({ guest }) => presentOf(guest) },
  {
    title: 'RESTORE',
    width: 7,
    weight: 6,
    text: ({ guest }) => restoreOf(guest.restore),
    style: ({ guest }) => (guest.restore === undefined ? undefined : 'green'),
  },
];

/** The whole picture in lines, none longer than the terminal is wide. */
export function renderTop(scene: TopScene, terminal: Terminal = plainTerminal()): string[] {
  const { now, before, sort, rows: lines = Number.POSITIVE_INFINITY, trouble, keys } = scene;
  const rows = topRows(now, before, sort);
  const head = headOf(scene, rows, terminal);
  const foot = trouble === undefined ? dim(keys, terminal) : [terminal.paint('red', cut(trouble, terminal))];
  const room = lines - head.length - foot.length;
  // The guests get what they need of the upper half, and what the rest leaves of the lower one.
  const selected = rows.findIndex(({ guest }) => guestKey(guest) === scene.selected);
  const parts = [threadsOf(rows[Math.max(0, selected)], terminal), latencyOf(now, terminal)];
  let left = room - Math.min(rows.length + 1, Math.ceil(room / 2));
  const below: string[] = [];
  for (const part of parts) {
    if (part.length === 0 || part.length > left) continue;
    left -= part.length;
    below.push(...part);
  }
  return [...head, ...tableOf(rows, { room: room - below.length, selected }, terminal), ...below, ...foot];
}

function dim(text: string | undefined, terminal: Terminal): string[] {
  return text === undefined ? [] : [terminal.paint('dim', cut(text, terminal))];
}

function cut(text: string, { columns }: Terminal): string {
  return [...text].slice(0, columns - 1).join('');
}

/** Names come from elsewhere: nothing in them may move the cursor. */
function printable(name: string): string {
  return name.replaceAll(/\p{C}/gu, '?');
}

function headOf({ source, now }: TopScene, rows: readonly TopRow[], terminal: Terminal): string[] {
  const sum = (of: (row: TopRow) => number): number => rows.reduce((total, row) => total + of(row), 0);
  const faults = formatShort(sum((row) => row.faultsPerSecond));
  const waiting = sum((row) => row.blocked).toFixed(2);
  const copied = formatBytes(sum(({ guest }) => guest.numbers.bytesCopied ?? 0));
  const title = `pagefault top   ${source}, process ${now.pid}`;
  const lines = [
    terminal.paint('bold', cut(title, terminal)),
    cut(
      `${formatQuantity(rows.length, 'guest')}, ${faults} faults/s, ${waiting} threads waiting, ${copied} copied`,
      terminal,
    ),
  ];
  if (now.service !== undefined) lines.push(cut(serviceOf(now.service), terminal));
  return [...lines, ''];
}

function serviceOf({ clients, pages, bytes, refused, failures }: ObservedService): string {
  const served = `${formatQuantity(clients, 'client')}, ${formatQuantity(pages, 'page')} (${formatBytes(bytes)}) sent`;
  return `${served}, ${formatCount(refused)} refused, ${formatQuantity(failures, 'page')} not to be had`;
}

/** The columns there is room for; the name gets what is left. */
function columnsFor({ columns }: Terminal): Placed[] {
  const chosen = COLUMNS.filter(({ weight }) => weight > 3 || columns >= WIDE);
  const width = (): number => chosen.reduce((sum, column) => sum + column.width + 1, 0);
  while (width() > columns && chosen.length > 2) {
    const least = chosen.reduce((a, b) => (b.weight <= a.weight ? b : a));
    chosen.splice(chosen.indexOf(least), 1);
  }
  const spare = Math.max(0, columns - width());
  return chosen.map((column) => ({ column, width: column.width + (column.title === 'NAME' ? spare : 0) }));
}

interface Window {
  /** Lines for the table. */
  readonly room: number;
  /** The row that must be seen; -1: the first ones. */
  readonly selected: number;
}

function tableOf(rows: readonly TopRow[], { room, selected }: Window, terminal: Terminal): string[] {
  const columns = columnsFor(terminal);
  const most = rows.length < room ? rows.length : Math.max(0, room - 2);
  const first = Math.max(0, Math.min(selected - Math.floor(most / 2), rows.length - most));
  const shown = rows.slice(first, first + most);
  const lines = shown.map((row, i) => lineOf(row, columns, first + i === selected, terminal));
  const heading = columns.map((placed) => place(placed.column.title, placed)).join(' ');
  const hidden = rows.length - shown.length;
  if (hidden > 0) lines.push(terminal.paint('dim', cut(`and ${formatQuantity(hidden, 'guest')} more`, terminal)));
  return [terminal.paint('bold', heading.trimEnd()), ...lines];
}

function place(text: string, { column, width }: Placed): string {
  const fitting = [...text].slice(0, width).join('');
  return column.title === 'NAME' ? fitting.padEnd(width) : fitting.padStart(width);
}

/** The selected one is bold, and begins with a sign for terminals that show no bold. */
function lineOf(row: TopRow, columns: readonly Placed[], selected: boolean, terminal: Terminal): string {
  const cells = columns.map((placed) => {
    const text = place(placed.column.text(row, terminal), placed);
    const style = placed.column.style?.(row);
    return style === undefined ? text : terminal.paint(style, text);
  });
  const line = cells.join(' ').trimEnd();
  return selected ? terminal.paint('bold', line.replace(/^ /, '>')) : line;
}

function presentOf({ numbers: { pages, present } }: GuestSnapshot): string {
  return pages === undefined || present === undefined || pages === 0 ? '-' : percent(present / pages);
}

/** 100 % only when it is complete. */
function restoreOf(restore: RestoreProgress | undefined): string {
  if (restore === undefined) return '-';
  const { done, total } = restore;
  return done >= total ? 'done' : `${Math.floor((done / total) * 100)}%`;
}

/** Whose threads wait, and for how long: the longest first. */
function threadsOf(row: TopRow | undefined, terminal: Terminal): string[] {
  const threads = row?.guest.numbers.threads ?? [];
  if (row === undefined || threads.length === 0) return [];
  const sorted = [...threads].sort((a, b) => b.blockedUs - a.blockedUs);
  const shown = sorted.slice(0, MAX_THREADS);
  const most = Math.max(1, sorted[0]?.blockedUs ?? 0);
  const width = Math.max(8, terminal.columns - 32);
  const lines = shown.map(({ tid, faults, blockedUs }) => {
    const bar = (terminal.unicode ? '█' : '#').repeat(Math.max(1, Math.round((blockedUs / most) * (width - 1))));
    const who = tid === 0 ? 'all' : String(tid);
    return `${who.padStart(7)} ${duration(blockedUs * 1000).padStart(8)} ${formatShort(faults).padStart(5)} ${terminal.paint('yellow', bar)}`;
  });
  if (sorted.length > shown.length) lines.push(`and ${formatQuantity(sorted.length - shown.length, 'thread')} more`);
  const heading = `Blocked so far, by thread of ${printable(row.guest.name)} (${row.guest.pid}), with faults`;
  return ['', terminal.paint('bold', cut(heading, terminal)), ...lines];
}

/** Of all faults of all guests. */
function latencyOf({ guests }: ServerSnapshot, terminal: Terminal): string[] {
  const buckets: number[] = [];
  for (const { numbers } of guests) {
    for (const [i, bucket] of numbers.histogram.entries()) buckets[i] = (buckets[i] ?? 0) + bucket;
  }
  const lines = renderHistogram(buckets, terminal);
  if (lines.length === 0) return [];
  const at = (share: number): number => quantile(buckets, share);
  const told = describeLatency({ buckets, p50: at(0.5), p90: at(0.9), p99: at(0.99), max: 0 });
  const heading = terminal.paint('bold', cut(`Fault latency so far, ${told}`, terminal));
  return ['', heading, ...lines.slice(-MAX_LATENCY_LINES)]; // the slow ones matter
}
