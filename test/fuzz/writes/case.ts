/** A case of the fuzz of writes: how the segments are made, and what is done to them. Plain JSON, made from a seed, or given to be run again. */

import { Random } from '../random.js';
import { fewer } from '../shrink.js';

export const KINDS = ['file', 'memory', 'custom', 'custom', 'custom'] as const;

export interface SegmentPlan {
  kind: (typeof KINDS)[number];
  pageSize: number;
  byteLength: number;
  /** Where the segment begins in the store. */
  base: number;
  /** Bytes of the store behind the segment's end; negative: the segment is padded. */
  rest: number;
  readahead: number | 'auto';
  /** Bytes of its own budget, 'shared' for the case's, or none. */
  resident: number | 'shared' | undefined;
  into: 'none' | 'wasm' | 'buffer';
  /** Of custom stores. `busy`: synchronous, and so slow that pages are worth staging. */
  concurrency: number;
  reads: 'sync' | 'async' | 'late' | 'busy';
  writes: 'sync' | 'async' | 'late';
  onWrite: 'none' | 'sync' | 'async';
}

export const SOLO = {
  poke: 20,
  fill: 4,
  set: 8,
  'copy within': 3,
  write: 14,
  kernel: 5,
  attempt: 6,
  check: 16,
  read: 6,
  load: 5,
  pin: 3,
  unpin: 4,
  release: 5,
  invalidate: 4,
  flush: 8,
  discard: 4,
  reset: 4,
  dirty: 6,
  'begin flush': 6,
  'begin load': 3,
  'begin pin': 2,
  join: 3,
  settle: 4,
  'fail read': 2,
  'fail write': 3,
  'fail sync': 2,
  'fail onWrite': 2,
  heal: 3,
  reopen: 2,
} as const;

/** What threads do at the same time. */
export const TOGETHER = {
  lanes: 30,
  'write lanes': 12,
  'check lanes': 16,
  'kept lanes': 8,
  flush: 5,
  release: 3,
  invalidate: 3,
  reset: 3,
  load: 2,
  pin: 2,
  unpin: 2,
  'begin flush': 4,
  join: 2,
  'fail write': 2,
  'fail sync': 1,
} as const;

export type Name = keyof typeof SOLO | keyof typeof TOGETHER;

/** Offsets and lengths are taken modulo what the segment has, so that a list of operations stays valid when it is shortened. */
export interface Op {
  do: Name;
  s: number;
  at: number;
  n: number;
  /** Whatever else: a pattern, a way, milliseconds until an abort. */
  x: number;
}

export interface Case {
  seed: number;
  /** Which of the backends that work. */
  backend: number;
  shared: boolean;
  segments: SegmentPlan[];
  /** Of the shared budget. */
  budget: number;
  ops: Op[];
  /** What each further thread does meanwhile; where there are any, `ops` are like theirs. */
  threads: Op[][];
}

function plan(random: Random, inBudget: boolean): SegmentPlan {
  const pageSize = 4096 * 2 ** random.pick([0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 4, 6, 9]);
  const most = pageSize > 2 ** 20 ? 5 : pageSize > 2 ** 16 ? 14 : random.pick([3, 12, 12, 40, 120]);
  const pages = random.between(1, most);
  const byteLength = Math.max(1, pages * pageSize - (random.chance(0.5) ? 0 : random.below(pageSize)));
  const budgets = [1, 4, random.between(2, 8), Math.max(1, pages >> 2), Math.max(1, pages >> 1)];
  const own = random.pick([undefined, ...budgets, ...budgets]);
  return {
    kind: random.pick(KINDS),
    pageSize,
    byteLength,
    base: random.chance(0.7) ? 0 : random.below(3 * pageSize),
    rest: random.chance(0.6) ? 0 : random.chance(0.5) ? random.below(pageSize) : -random.below(byteLength),
    readahead: random.pick(['auto', 'auto', 0, random.between(1, 8) * pageSize]),
    resident: inBudget ? 'shared' : own === undefined ? undefined : own * pageSize + (random.chance(0.2) ? 17 : 0),
    into: random.pick(['none', 'none', 'none', 'none', 'wasm', 'buffer']),
    concurrency: random.pick([1, 2, 16]),
    reads: random.pick(['sync', 'async', 'late', 'busy', 'busy']),
    writes: random.pick(['sync', 'async', 'late']),
    onWrite: random.pick(['none', 'none', 'sync', 'async']),
  };
}

function op(random: Random, name: Name, segments: readonly SegmentPlan[]): Op {
  const s = random.below(segments.length);
  const { pageSize = 4096, byteLength = 1 } = segments[s] ?? {};
  const pages = Math.ceil(byteLength / pageSize);
  const border = pageSize * random.below(pages);
  const at = random.pick([random.below(byteLength), border, Math.max(0, border - random.between(1, 40))]);
  const lengths = [1, random.between(1, 9), 60, random.between(1, pageSize), pageSize, pageSize * random.between(1, 6)];
  const n = random.pick([...lengths, random.chance(0.4) ? byteLength : pageSize + 1]);
  return { do: name, s, at, n, x: random.below(4096) };
}

function names(random: Random, weights: Readonly<Record<string, number>>): () => Name {
  const all = Object.entries(weights);
  const total = all.reduce((sum, [, weight]) => sum + weight, 0);
  return () => {
    let left = random.below(total);
    const found = all.find(([, weight]) => {
      left -= weight;
      return left < 0;
    });
    return (found?.[0] ?? 'read') as Name;
  };
}

/** The case of a seed. */
export function makeCase(seed: number): Case {
  const random = new Random(seed);
  const inBudget = random.chance(0.3);
  const count = inBudget ? random.between(1, 3) : random.pick([1, 1, 1, 2]);
  const segments = Array.from({ length: count }, () => plan(random, inBudget));
  const threads = random.chance(0.3) ? random.between(1, 2) : 0;
  const largest = Math.max(...segments.map(({ pageSize }) => pageSize));
  const name = names(random, threads > 0 ? TOGETHER : SOLO);
  const list = (length: number): Op[] => Array.from({ length }, () => op(random, name(), segments));
  return {
    seed,
    backend: random.below(12),
    shared: threads > 0 || random.chance(0.3),
    segments,
    budget: largest * random.pick([1, 4, 5, 8, 20]) + (random.chance(0.3) ? 4096 : 0),
    ops: list(random.between(5, 90)),
    threads: Array.from({ length: threads }, () => list(random.between(10, 100))),
  };
}

/** Simpler cases that may fail in the same way. */
export function* simpler(of: Case): IterableIterator<Case> {
  yield* fewer<Op, Case>(of);
  for (const [i, plan] of of.segments.entries()) {
    const simple: Partial<SegmentPlan>[] = [
      { resident: undefined },
      { into: 'none' },
      { readahead: 0 },
      { base: 0 },
      { rest: 0 },
      { onWrite: 'none' },
      { reads: 'sync' },
      { writes: 'sync' },
      { kind: 'memory' },
    ];
    for (const part of simple) {
      const changed = { ...plan, ...part };
      if (JSON.stringify(changed) === JSON.stringify(plan)) continue;
      yield { ...of, segments: of.segments.map((other, at) => (at === i ? changed : other)) };
    }
  }
  if (of.shared && of.threads.length === 0) yield { ...of, shared: false };
}
