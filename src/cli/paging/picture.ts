/** The lines of the live picture. Pure functions. */
import { Latencies } from '../../guests/latency.js';
import { GUEST_PAGE } from '../../guests/pages.js';
import { formatCount, formatDuration, formatQuantity } from '../../observe/format.js';
import type { Style, Terminal } from '../../observe/terminal.js';
import type { Paged } from './paged.js';

export interface Scene {
  readonly all: readonly Paged[];
  readonly strategy: string;
  readonly perSecond: number;
  /** Lines there are. */
  readonly rows: number;
  /** Nothing happens any more: no keys. */
  readonly over: boolean;
}

interface Look {
  readonly style: Style;
  readonly unicode: string;
  readonly ascii: string;
  readonly name: string;
}

const LOOKS: readonly (Look & { readonly states: readonly number[] })[] = [
  { states: [GUEST_PAGE.absent], style: 'gray', unicode: '·', ascii: '.', name: 'absent' },
  { states: [GUEST_PAGE.loading], style: 'yellow', unicode: '▒', ascii: 'o', name: 'loading' },
  { states: [GUEST_PAGE.present, GUEST_PAGE.open], style: 'green', unicode: '█', ascii: '#', name: 'present' },
  { states: [GUEST_PAGE.dirty], style: 'magenta', unicode: '▓', ascii: '*', name: 'dirty' },
  { states: [GUEST_PAGE.evicting, GUEST_PAGE.evicted], style: 'cyan', unicode: '░', ascii: '-', name: 'evicted' },
  { states: [GUEST_PAGE.failed], style: 'red', unicode: 'x', ascii: 'x', name: 'failed' },
];
const LOADING = 1;
const FAILED = 5;
const ROWS_EACH = 8;
const HELP = 'keys: e eager, o on-demand, r read-ahead, b budget, q end';

/** Index in LOOKS of each state. */
const LOOK_OF = new Uint8Array(8);
for (const [i, { states }] of LOOKS.entries()) for (const state of states) LOOK_OF[state] = i;

export function pictureOf(scene: Scene, terminal: Terminal): string[] {
  const { all, perSecond, strategy } = scene;
  const totals = new Array<number>(LOOKS.length).fill(0);
  // Two lines below the picture, and one above each child.
  const room = Math.floor((scene.rows - 3) / Math.max(1, all.length)) - 1;
  const lines =
    room < 1
      ? crowd(scene, totals, terminal)
      : all.flatMap((paged) => one(paged, Math.min(room, ROWS_EACH), totals, terminal));
  const latencies = new Latencies();
  let faults = 0;
  for (const { pager } of all) {
    latencies.merge(pager.latencies);
    faults += pager.stats().faults;
  }
  const { p50, p99 } = latencies.percentiles();
  const times = faults === 0 ? '' : `, half within ${formatDuration(p50)}, 99 % within ${formatDuration(p99)}`;
  return [
    ...lines,
    ...legendOf(totals, terminal),
    cut(`${strategy}: ${formatQuantity(faults, 'fault')}, ${formatCount(perSecond)}/s${times}`, terminal),
    ...(scene.over ? [] : [terminal.paint('dim', cut(HELP, terminal))]),
  ];
}

/** What each sign stands for, with how many there are: in as many lines as the columns make necessary. */
function legendOf(totals: readonly number[], terminal: Terminal): string[] {
  const lines: string[] = [];
  let used = terminal.columns;
  for (const [i, { style, name, unicode, ascii }] of LOOKS.entries()) {
    if (totals[i] === 0) continue;
    const text = ` ${formatCount(totals[i] ?? 0)} ${name}`;
    const painted = `${terminal.paint(style, terminal.unicode ? unicode : ascii)}${text}`;
    used += text.length + 3;
    if (used >= terminal.columns) {
      lines.push(painted);
      used = text.length + 1;
    } else {
      lines[lines.length - 1] += `  ${painted}`;
    }
  }
  return lines;
}

function cut(text: string, { columns }: Terminal): string {
  return text.slice(0, columns - 1);
}

/** More children than lines: only what all of them have together. */
function crowd({ all }: Scene, totals: number[], terminal: Terminal): string[] {
  for (const { pager } of all) {
    for (const { pages } of pager.regions) for (const state of pages.states) add(totals, state);
  }
  return [terminal.paint('bold', cut(`${all.length} children, more than there are lines for`, terminal))];
}

function add(totals: number[], state: number): void {
  const look = LOOK_OF[state] ?? 0;
  totals[look] = (totals[look] ?? 0) + 1;
}

function one({ pager }: Paged, rows: number, totals: number[], terminal: Terminal): string[] {
  const heading = (text: string): string => terminal.paint('bold', text);
  const [region] = pager.regions;
  if (region === undefined) return [heading(`[${pager.pid}] has mapped nothing yet`)];
  const { states } = region.pages;
  const width = terminal.columns - 1;
  const cells = Math.min(states.length, width * rows);
  const looks = looksOf(states, cells, totals);
  const each =
    states.length > cells ? `, a cell is about ${formatQuantity(Math.round(states.length / cells), 'page')}` : '';
  const lines = [heading(cut(`[${pager.pid}] ${formatQuantity(states.length, 'page')}${each}`, terminal))];
  for (let first = 0; first < cells; first += width) lines.push(draw(looks.subarray(first, first + width), terminal));
  return lines;
}

/** What each cell shows: something that is going on now, else what most of its pages are. */
function looksOf(states: Uint8Array, cells: number, totals: number[]): Uint8Array {
  const looks = new Uint8Array(cells);
  const counts = new Array<number>(LOOKS.length);
  for (let cell = 0; cell < cells; cell++) {
    counts.fill(0);
    const end = Math.floor(((cell + 1) * states.length) / cells);
    for (let page = Math.floor((cell * states.length) / cells); page < end; page++) add(counts, states[page] ?? 0);
    for (const [look, count] of counts.entries()) totals[look] = (totals[look] ?? 0) + count;
    looks[cell] = most(counts);
  }
  return looks;
}

function most(counts: readonly number[]): number {
  if ((counts[FAILED] ?? 0) > 0) return FAILED;
  if ((counts[LOADING] ?? 0) > 0) return LOADING;
  let best = 0;
  for (const [look, count] of counts.entries()) if (count > (counts[best] ?? 0)) best = look;
  return best;
}

/** Neighbours that look the same are painted together. */
function draw(looks: Uint8Array, terminal: Terminal): string {
  let line = '';
  for (let first = 0; first < looks.length; ) {
    let end = first;
    while (end < looks.length && looks[end] === looks[first]) end++;
    const look = LOOKS[looks[first] ?? 0];
    if (look !== undefined)
      line += terminal.paint(look.style, (terminal.unicode ? look.unicode : look.ascii).repeat(end - first));
    first = end;
  }
  return line;
}
