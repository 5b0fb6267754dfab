/** A case of the fuzz: how the segments are made, and what is done to them. Plain JSON, made from a seed, or given to be run again. */

import type { Backend } from 'pagefault';
import { WASM_PAGE } from '../fixtures/wasm.js';
import { type MemoryKind, memoryKinds } from '../helpers/memories.js';
import { Random } from './random.js';
import { ANSWERS, type Answer } from './store.js';
import { FAIL } from './truth.js';

export type Kind = 'file' | 'memory' | 'shared memory' | 'zero' | Answer;

export interface SegmentPlan {
  kind: Kind;
  pageSize: number;
  byteLength: number;
  /** Where the segment begins in the store. */
  base: number;
  /** Bytes of the store behind the segment's end; negative: the segment is padded. */
  rest: number;
  readahead: number | 'auto';
  /** Bytes of its own budget, 'shared' for the case's, or none. */
  resident: number | 'shared' | undefined;
  concurrency: number;
  /** Bytes that the store may be asked for at once where nobody waits; absent: a page. */
  longestRead?: number;
  /** Memory that exists instead of memory of its own. */
  into?: MemoryKind;
}

/** Offsets and lengths are taken modulo what the segment has, so that a list of operations stays valid when it is shortened. */
export interface Op {
  do:
    | 'touch'
    | 'range'
    | 'read'
    | 'attempt'
    | 'load'
    | 'pin'
    | 'unpin'
    | 'release'
    | 'invalidate'
    | 'change'
    | 'fail'
    | 'heal'
    | 'begin load'
    | 'begin pin'
    | 'join'
    | 'settle'
    | 'reopen';
  s: number;
  at: number;
  n: number;
  /** Whatever else: a step, a way to fail, milliseconds until an abort. */
  x: number;
}

export interface Case {
  seed: number;
  backend: Backend;
  segments: SegmentPlan[];
  /** Of the shared budget. */
  budget: number;
  /** Each operation ends before the next begins, so that all counts can be foretold. */
  exact: boolean;
  ops: Op[];
  /** What each further thread does meanwhile. */
  threads: Op[][];
}

const KINDS: readonly Kind[] = ['file', 'memory', 'shared memory', 'zero', ...ANSWERS];

/** True for stores whose contents can change. */
export function changes(kind: Kind): boolean {
  return kind !== 'memory' && kind !== 'zero';
}

export function isCustom(kind: Kind): kind is Answer {
  return (ANSWERS as readonly string[]).includes(kind);
}

function plan(random: Random, shared: boolean): SegmentPlan {
  const pageSize = 4096 * 2 ** random.pick([0, 0, 0, 0, 1, 2, 4, 6, 9]);
  const most = pageSize > 2 ** 20 ? 5 : pageSize > 2 ** 16 ? 16 : random.pick([8, 40, 40, 200]);
  const pages = random.between(1, most);
  const byteLength = Math.max(1, pages * pageSize - (random.chance(0.5) ? 0 : random.below(pageSize)));
  const total = Math.ceil(byteLength / pageSize);
  const budgets = [1, random.between(2, 6), 8, Math.max(1, total >> 3), Math.max(1, total >> 1)];
  const own = random.pick([undefined, ...budgets, ...budgets]);
  return {
    kind: random.pick(KINDS),
    pageSize,
    byteLength,
    base: random.chance(0.7) ? 0 : random.below(3 * pageSize),
    rest: random.chance(0.6) ? 0 : random.chance(0.5) ? random.below(pageSize) : -random.below(byteLength),
    readahead: random.pick(['auto', 'auto', 0, random.between(1, 12) * pageSize]),
    resident: shared ? 'shared' : own === undefined ? undefined : own * pageSize + (random.chance(0.2) ? 17 : 0),
    concurrency: random.pick([1, 2, 16]),
  };
}

const WEIGHTS: readonly [Op['do'], number][] = [
  ['touch', 20],
  ['range', 16],
  ['read', 14],
  ['attempt', 8],
  ['load', 8],
  ['pin', 4],
  ['unpin', 5],
  ['release', 6],
  ['invalidate', 4],
  ['change', 8],
  ['fail', 3],
  ['heal', 3],
  ['begin load', 5],
  ['begin pin', 3],
  ['join', 4],
  ['settle', 4],
  ['reopen', 1],
];
const TOTAL = WEIGHTS.reduce((sum, [, weight]) => sum + weight, 0);
/** What a further thread may do: what needs no promise and does not change the store. */
const THREADED: readonly Op['do'][] = [
  'touch',
  'touch',
  'range',
  'range',
  'read',
  'read',
  'attempt',
  'release',
  'invalidate',
];

function which(random: Random): Op['do'] {
  let left = random.below(TOTAL);
  for (const [name, weight] of WEIGHTS) {
    left -= weight;
    if (left < 0) return name;
  }
  return 'touch';
}

function op(random: Random, name: Op['do'], segments: readonly SegmentPlan[]): Op {
  const s = random.below(segments.length);
  const { pageSize = 4096, byteLength = 1 } = segments[s] ?? {};
  const at = random.chance(0.5) ? random.below(byteLength) : pageSize * random.below(Math.ceil(byteLength / pageSize));
  const n = random.pick([
    1,
    random.between(1, 9),
    random.between(1, pageSize),
    pageSize,
    pageSize * random.between(1, 8),
    random.chance(0.3) ? byteLength : pageSize + 1,
  ]);
  const ways = [FAIL.throws, FAIL.short, FAIL.long, FAIL.nonsense, 1, 2];
  const x = name === 'fail' ? random.pick(ways) : random.below(4096);
  return { do: name, s, at, n, x };
}

/** Memory for some of the segments, by numbers of its own, so that a seed means what it meant. */
function lendMemory(seed: number, segments: readonly SegmentPlan[], threads: boolean): void {
  const random = new Random(seed ^ 0x5eed);
  for (const segment of segments) {
    const kinds = memoryKinds.filter(
      (kind) => (!threads || /^shared/i.test(kind)) && (segment.pageSize <= WASM_PAGE || !kind.endsWith('Memory')),
    );
    if (random.chance(0.3)) segment.into = random.pick(kinds);
  }
}

/** Runs of pages in one read, where counts need not be foretold; by numbers of its own, too. */
function lengthenReads(seed: number, segments: readonly SegmentPlan[]): void {
  const random = new Random(seed ^ 0x10a6);
  for (const segment of segments) {
    if (isCustom(segment.kind) && random.chance(0.5)) segment.longestRead = segment.pageSize * random.between(2, 20);
  }
}

/** The case of a seed. */
export function makeCase(seed: number, backends: readonly Backend[]): Case {
  const random = new Random(seed);
  const sharedBudget = random.chance(0.3);
  const threads = random.chance(0.35) ? random.between(1, 3) : 0;
  const segments = Array.from({ length: sharedBudget ? random.between(1, 3) : random.pick([1, 1, 2]) }, () =>
    plan(random, sharedBudget),
  );
  lendMemory(seed, segments, threads > 0);
  const largest = Math.max(...segments.map((segment) => segment.pageSize));
  const exact = threads === 0 && random.chance(0.5);
  if (!exact) lengthenReads(seed, segments);
  const list = (length: number, name: () => Op['do']): Op[] =>
    Array.from({ length }, () => op(random, name(), segments));
  return {
    seed,
    backend: random.pick(backends),
    segments,
    budget: largest * random.pick([1, 3, 5, 8, 20]) + (random.chance(0.3) ? 4096 : 0),
    exact,
    ops: list(random.between(5, threads > 0 ? 120 : 80), () => which(random)).filter(
      ({ do: name }) => !exact || !name.startsWith('begin'),
    ),
    threads: Array.from({ length: threads }, () => list(random.between(10, 150), () => random.pick(THREADED))),
  };
}
