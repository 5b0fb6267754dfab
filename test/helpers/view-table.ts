/**
 * What Node does with views of a segment: the table of docs/limits.md, of which each function and each cell is a test of test/node/views.test.ts. The functions themselves
 * are in test/node/calls.
 */

import type { Backend } from 'pagefault';
import type { Call } from '../node/calls/call.js';
import * as computing from '../node/calls/computing.js';
import * as copying from '../node/calls/copying.js';
import * as files from '../node/calls/files.js';
import * as moving from '../node/calls/moving.js';
import * as sockets from '../node/calls/sockets.js';

/** What a cell may say. */
export const OUTCOMES = {
  works: 'does what it does with any memory, and brings in the pages that it needs',
  EFAULT: "fails with the system's error EFAULT: it throws, rejects, or destroys its stream",
  'EFAULT until written': 'the same, until each page was written once since the last flush',
  'lost without an error': 'whoever sends is told that all is well, and nothing arrives',
  'copies everything': 'brings in the whole segment, and copies it, however small the view',
  'shares it': 'the other side has the same memory; nothing is copied or brought in',
  'takes the buffer':
    'works, and takes the buffer away from the segment: `segment.view()` fails from then on (`ERR_PAGEFAULT_NULL_BASE`), and the rest works',
  'gives its text': 'takes the numbers, written in decimal with commas between them, for the bytes',
  'waits for the page': 'is settled when the page is there, or when it is given up (`faultTimeoutMs`)',
  refuses: 'throws, and nothing has happened',
} as const;
export type Outcome = keyof typeof OUTCOMES;

/** The columns. A backend that serves the faults of system calls (`thread`) has 'works' wherever the others have EFAULT. */
export const COLUMNS = ['signal', 'mprotect', 'memfd', 'thread'] as const satisfies readonly Backend[];
const SERVING: readonly string[] = ['thread'];

/** Where the pages are, and of what kind the buffer is. */
export const SITUATIONS = ['missing', 'pinned', 'shared'] as const;
export type Situation = (typeof SITUATIONS)[number];

/** An outcome, and others on some backends or versions of Node. */
export type Cell = Outcome | { readonly is: Outcome; readonly but: Readonly<Record<string, Outcome>> };

export interface Row {
  readonly calls: readonly Call[];
  /** Pages that are not in memory. */
  readonly missing: Cell;
  /** The same once they are pinned. */
  readonly pinned: Cell;
  /** Of `shared: true`, not pinned. */
  readonly shared: Cell;
}

const TRACKED_BY_FAULTS: Cell = {
  is: 'works',
  but: { mprotect: 'EFAULT until written', memfd: 'EFAULT until written' },
};
const WORKS = { missing: 'works', pinned: 'works', shared: 'works' } as const;
const GIVES_EFAULT = { missing: 'EFAULT', pinned: 'works', shared: 'EFAULT' } as const;
const FILLS = { missing: 'EFAULT', pinned: TRACKED_BY_FAULTS, shared: 'EFAULT' } as const;
const NOT_SHARED = { missing: 'works', pinned: 'works', shared: 'refuses' } as const;
const TEXT: Cell = { is: 'refuses', but: { 'Node.js 24': 'gives its text', 'Node.js 26': 'gives its text' } };
const NOT_SHARED_NOW: Cell = { is: 'works', but: { 'Node.js 24': 'refuses', 'Node.js 26': 'refuses' } };
const TAKES = { missing: 'takes the buffer', pinned: 'takes the buffer', shared: 'refuses' } as const;
const COPIES = { missing: 'copies everything', pinned: 'copies everything', shared: 'shares it' } as const;
const TRANSFER: Cell = { is: 'refuses', but: { 'Node.js 20': 'copies everything' } };

export const ROWS: readonly Row[] = [
  { calls: files.WRITES, ...GIVES_EFAULT },
  { calls: files.WHOLE_FILES, ...GIVES_EFAULT },
  { calls: files.READS, ...FILLS },
  { calls: sockets.SOCKETS, ...GIVES_EFAULT },
  { calls: sockets.ONREAD, ...FILLS },
  { calls: sockets.SYNC_CHILD, ...GIVES_EFAULT },
  { calls: moving.MOVED_OUT, ...GIVES_EFAULT },
  { calls: moving.MOVED_IN, ...FILLS },
  { calls: sockets.HTTP, ...GIVES_EFAULT },
  { calls: sockets.HTTP2, missing: 'lost without an error', pinned: 'works', shared: 'lost without an error' },
  { calls: sockets.TLS, ...WORKS },
  { calls: sockets.FETCH, missing: 'works', pinned: 'works', shared: TEXT },
  { calls: computing.ZLIB, ...WORKS },
  { calls: computing.CRYPTO, ...WORKS },
  { calls: computing.RANDOM, ...WORKS },
  { calls: computing.SUBTLE, ...NOT_SHARED },
  { calls: computing.TEXT, ...WORKS },
  { calls: computing.WASM, ...WORKS },
  { calls: copying.BUFFER, ...WORKS },
  { calls: copying.SHOWN, ...WORKS },
  { calls: copying.BLOBS, ...WORKS },
  { calls: copying.SERIALIZED, ...WORKS },
  { calls: copying.STREAMS, ...WORKS },
  { calls: copying.COMPRESSION, missing: 'works', pinned: 'works', shared: NOT_SHARED_NOW },
  { calls: copying.BYTE_STREAMS, ...TAKES },
  { calls: copying.BYOB, ...TAKES },
  { calls: copying.CLONES, ...COPIES },
  { calls: copying.TRANSFERS, missing: TRANSFER, pinned: TRANSFER, shared: 'refuses' },
];

/** A function that is given no view, but ends a thread that touches one: a test of its own. */
export const TERMINATE = '`worker.terminate` of a thread that touches it';
const WAITS = 'waits for the page' satisfies Outcome;

const MAJOR = `Node.js ${process.versions.node.split('.')[0]}`;

/** What must happen here. */
export function expected(cell: Cell, backend: string): Outcome {
  const outcome = typeof cell === 'string' ? cell : (cell.but[backend] ?? cell.but[MAJOR] ?? cell.is);
  const fails = outcome.startsWith('EFAULT') || outcome === 'lost without an error';
  return fails && SERVING.includes(backend) ? 'works' : outcome;
}

function shownCell(cell: Cell): string {
  if (typeof cell === 'string') return cell;
  const others = new Map<Outcome, string[]>();
  for (const [where, outcome] of Object.entries(cell.but)) {
    const name = where.startsWith('Node') ? where : `\`${where}\``;
    others.set(outcome, [...(others.get(outcome) ?? []), name]);
  }
  return [cell.is, ...[...others].map(([outcome, names]) => `${names.join(', ')}: ${outcome}`)].join('; ');
}

/** The table as it must stand in the documentation. */
export function asMarkdown(): string {
  const rows = ROWS.map(({ calls, missing, pinned, shared }) => {
    const names = calls.map(({ name }) => name).join(', ');
    const cells = COLUMNS.map((backend) => expected(missing, backend));
    const version = typeof missing === 'string' ? cells : COLUMNS.map(() => shownCell(missing));
    return `| ${[names, ...version, shownCell(pinned), shownCell(shared)].join(' | ')} |`;
  });
  const backends = COLUMNS.map((backend) => `\`${backend}\``).join(' | ');
  return [
    `| | ${backends} | pinned | \`shared: true\` |`,
    `|${'---|'.repeat(COLUMNS.length + 3)}`,
    ...rows,
    `| ${[TERMINATE, ...COLUMNS.map(() => WAITS), 'works', WAITS].join(' | ')} |`,
    '',
    '| | |',
    '|---|---|',
    ...Object.entries(OUTCOMES).map(([word, meaning]) => `| ${word} | ${meaning} |`),
  ].join('\n');
}
