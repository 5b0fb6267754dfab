/**
 * A picture of the pages of a segment for the terminal. Each cell stands for a run of neighbouring pages: its shade says
 * how many of them are in memory, a letter that some of them are failed, pinned or staged. States are read in
 * blocks, so that the map of millions of pages needs no copy of all their states.
 */
import { PAGE_PINNED, PAGE_STATE } from '../native/binding.js';
import { formatBytes, formatCount, formatQuantity } from './format.js';
import { plainTerminal, type Style, type Terminal } from './terminal.js';

/** Where states come from: `Segment` has this shape. One byte a page, as in `PAGE_STATE` and `PAGE_PINNED`. */
export interface PageSource {
  readonly byteLength: number;
  readonly pageSize: number;
  /** The states of `count` pages from `first` on. */
  pages(first: number, count: number): Uint8Array;
}

/** How many of the pages of a cell, or of a segment, are in which state. */
export interface PageCounts {
  pages: number;
  present: number;
  staged: number;
  failed: number;
  pinned: number;
}

const BLOCK = 65_536;
const STATE_MASK = 0x07;
const ROWS = 8;
const LABEL_WIDTH = 9;
const SHADES = { unicode: ['·', '░', '▒', '▓', '█'], ascii: ['.', ':', '-', '+', '#'] } as const;

/** Counts the pages of each of `cells` equal runs; fewer when there are fewer pages. */
export function countPages(source: PageSource, cells: number): PageCounts[] {
  const pageCount = Math.ceil(source.byteLength / source.pageSize);
  const used = Math.max(1, Math.min(cells, pageCount));
  const counts = Array.from({ length: used }, emptyCounts);
  for (let first = 0; first < pageCount; first += BLOCK) {
    const states = source.pages(first, Math.min(BLOCK, pageCount - first));
    for (const [i, state] of states.entries()) {
      const cell = counts[Math.floor(((first + i) * used) / pageCount)];
      if (cell !== undefined) count(cell, state);
    }
  }
  return counts;
}

/** The map in at most `rows` lines with the offset of each line in front, then a legend. */
export function renderPageMap(source: PageSource, terminal: Terminal = plainTerminal(), rows: number = ROWS): string[] {
  const cells = countPages(source, mapWidth(terminal) * rows);
  const { byteLength, pageSize } = source;
  return drawPageMap({ byteLength, pageSize, cells }, terminal);
}

/** Cells in a line of a map. */
export function mapWidth(terminal: Terminal): number {
  return Math.max(8, terminal.columns - LABEL_WIDTH - 1);
}

/** What a map shows. */
export interface PageMapParts {
  readonly byteLength: number;
  readonly pageSize: number;
  readonly cells: readonly PageCounts[];
  /** What the legend calls pages that are absent, and those that are present. */
  readonly words?: { readonly absent: string; readonly present: string };
}

/** Lines of text, one sign a cell, with the offset of each line in front. */
export function layOutMap(byteLength: number, cells: number, terminal: Terminal, draw: CellDrawer): string[] {
  const width = mapWidth(terminal);
  const lines: string[] = [];
  for (let first = 0; first < cells; first += width) {
    const offset = Math.floor((first / cells) * byteLength);
    lines.push(`${formatBytes(offset).padStart(LABEL_WIDTH)} ${draw(first, Math.min(cells, first + width))}`);
  }
  return lines;
}

/** The signs of the cells from `first` to `end`, exclusive. */
type CellDrawer = (first: number, end: number) => string;

/** Cells that are counted already, as `renderPageMap` shows them. */
export function drawPageMap({ byteLength, pageSize, cells, words }: PageMapParts, terminal: Terminal): string[] {
  const lines = layOutMap(byteLength, cells.length, terminal, (first, end) =>
    drawCells(cells.slice(first, end), terminal),
  );
  const total = cells.reduce(addCounts, emptyCounts());
  const perCell = Math.max(1, Math.round(total.pages / cells.length));
  lines.push(...legend(total, perCell, pageSize, words ?? { absent: 'absent', present: 'in memory' }, terminal));
  return lines;
}

function emptyCounts(): PageCounts {
  return { pages: 0, present: 0, staged: 0, failed: 0, pinned: 0 };
}

function addCounts(sum: PageCounts, cell: PageCounts): PageCounts {
  sum.pages += cell.pages;
  sum.present += cell.present;
  sum.staged += cell.staged;
  sum.failed += cell.failed;
  sum.pinned += cell.pinned;
  return sum;
}

function count(cell: PageCounts, state: number): void {
  cell.pages++;
  if ((state & PAGE_PINNED) !== 0) cell.pinned++;
  const kind = state & STATE_MASK;
  if (kind === PAGE_STATE.present) cell.present++;
  else if (kind === PAGE_STATE.failed) cell.failed++;
  else if (kind === PAGE_STATE.staged || kind === PAGE_STATE.evicting) cell.staged++;
}

/** A line of cells; neighbours of one style are painted together. */
function drawCells(cells: readonly PageCounts[], terminal: Terminal): string {
  const shades = terminal.unicode ? SHADES.unicode : SHADES.ascii;
  let line = '';
  let run = '';
  let style: Style = 'gray';
  for (const cell of cells) {
    const drawn = drawCell(cell, shades);
    if (drawn.style !== style && run !== '') {
      line += terminal.paint(style, run);
      run = '';
    }
    style = drawn.style;
    run += drawn.sign;
  }
  return run === '' ? line : line + terminal.paint(style, run);
}

/** What matters most wins: failed, pinned, more staged than present, then how much is present. */
function drawCell(cell: PageCounts, shades: readonly string[]): { style: Style; sign: string } {
  if (cell.failed > 0) return { style: 'red', sign: 'x' };
  if (cell.pinned > 0) return { style: 'magenta', sign: 'P' };
  if (cell.staged > cell.present) return { style: 'yellow', sign: 's' };
  const level = shadeLevel(cell.present / Math.max(1, cell.pages), shades.length - 1);
  return { style: level === 0 ? 'gray' : 'green', sign: shades[level] ?? '' };
}

/** Only an empty cell looks empty and only a full one looks full. */
function shadeLevel(share: number, last: number): number {
  if (share <= 0) return 0;
  return share >= 1 ? last : 1 + Math.floor(share * (last - 1));
}

interface LegendEntry {
  style: Style;
  sign: string;
  text: string;
}

function legend(
  total: PageCounts,
  perCell: number,
  pageSize: number,
  words: { absent: string; present: string },
  terminal: Terminal,
): string[] {
  const shades = terminal.unicode ? SHADES.unicode : SHADES.ascii;
  const absent = total.pages - total.present - total.staged - total.failed;
  const entry = (style: Style, sign: string, amount: number, what: string): LegendEntry => ({
    style,
    sign,
    text: `${formatCount(amount)} ${what}`,
  });
  const entries = [
    entry('gray', shades[0], absent, words.absent),
    entry('green', shades.slice(1).join(''), total.present, words.present),
  ];
  if (total.staged > 0) entries.push(entry('yellow', 's', total.staged, 'staged'));
  if (total.pinned > 0) entries.push(entry('magenta', 'P', total.pinned, 'pinned'));
  if (total.failed > 0) entries.push(entry('red', 'x', total.failed, 'failed'));
  const unit = `one cell: ${formatQuantity(perCell, 'page')} of ${formatBytes(pageSize)}`;
  const lines = [...wrapEntries(entries, terminal), terminal.paint('dim', unit)];
  return lines.map((line) => ' '.repeat(LABEL_WIDTH + 1) + line);
}

/** As many entries in a line as the terminal has columns for. */
function wrapEntries(entries: readonly LegendEntry[], terminal: Terminal): string[] {
  const room = terminal.columns - LABEL_WIDTH - 1;
  const lines: string[] = [];
  let used = room;
  for (const { style, sign, text } of entries) {
    const width = sign.length + 1 + text.length;
    const painted = `${terminal.paint(style, sign)} ${text}`;
    if (used + 3 + width > room) {
      lines.push(painted);
      used = width;
    } else {
      lines[lines.length - 1] += `   ${painted}`;
      used += 3 + width;
    }
  }
  return lines;
}
