/** A random case: a store, how the child is paged, what changes meanwhile, and what the child does. Plain data, all of it from the seed. */

import type { Strategy } from 'pagefault/guests';
import { Random } from '../../fuzz/random.js';

export const STORES = ['at once', 'later', 'flaky', 'chunks', 'memory'] as const;

/** What the child does beyond reading and writing: bits of `fuzz` in guest-program.c. */
const GIVES_UP = 1;
const GIVES_UP_PARTS = 2;
const PROTECTS = 4;
const MAPS_AGAIN = 8;
const SLEEPS = 16;

export interface Switch {
  /** After the last one. */
  readonly afterMs: number;
  readonly strategy: Strategy;
  readonly readahead: number | undefined;
}

export interface Case {
  readonly seed: number;
  readonly byteLength: number;
  /** The store's wish; 0: none. */
  readonly pageSize: number;
  readonly store: (typeof STORES)[number];
  readonly concurrency: number;
  readonly strategy: Strategy;
  readonly readahead: number;
  readonly resident: number;
  readonly trackWrites: boolean;
  readonly observed: boolean;
  readonly switches: readonly Switch[];
  readonly threads: number;
  readonly operations: number;
  readonly what: number;
  readonly rounds: number;
}

const STRATEGIES = ['on-demand', 'read-ahead', 'eager', 'budget', 'budget'] as const;

export function makeCase(seed: number): Case {
  const random = new Random(seed);
  const pageSize = random.pick([0, 0, 4096, 16384, 65536]);
  const size = Math.max(pageSize, 4096);
  const pages = random.between(1, random.pick([4, 40, Math.min(400, 2 ** 23 / size)]));
  const byteLength = pages * size - (random.chance(0.3) ? 8 * random.below(size / 8) : 0);
  const store = random.pick(STORES);
  const what = [GIVES_UP, GIVES_UP_PARTS, PROTECTS, MAPS_AGAIN, SLEEPS].reduce(
    (bits, bit) => bits | (random.chance(0.5) ? bit : 0),
    0,
  );
  return {
    seed,
    byteLength,
    pageSize,
    store,
    concurrency: random.between(1, 20),
    strategy: random.pick(STRATEGIES),
    readahead: random.between(1, random.pick([3, 30, 500])),
    resident: random.pick([1, random.between(1, byteLength), random.between(1, byteLength) >> 2, byteLength * 2]) || 1,
    trackWrites: random.chance(0.3),
    observed: random.chance(0.5),
    switches: Array.from({ length: random.chance(0.5) ? 0 : random.between(1, 12) }, () => ({
      afterMs: random.below(random.pick([2, 20])),
      strategy: random.pick(STRATEGIES),
      readahead: random.chance(0.5) ? random.between(1, 100) : undefined,
    })),
    threads: random.between(1, random.pick([1, 4, 16])),
    operations: random.between(10, store === 'later' || store === 'flaky' ? 300 : 2000),
    what,
    rounds: random.between(1, 4),
  };
}

/** Simpler cases that may fail in the same way. */
export function* simpler(of: Case): IterableIterator<Case> {
  for (const bit of [1, 2, 4, 8, 16]) if ((of.what & bit) !== 0) yield { ...of, what: of.what & ~bit };
  for (let i = 0; i < of.switches.length; i++) yield { ...of, switches: of.switches.filter((_, at) => at !== i) };
  if (of.threads > 1) yield { ...of, threads: of.threads >> 1 };
  if (of.rounds > 1) yield { ...of, rounds: of.rounds - 1 };
  if (of.operations > 10) yield { ...of, operations: of.operations >> 1 };
  if (of.store !== 'at once') yield { ...of, store: 'at once' };
  if (of.pageSize !== 0) yield { ...of, pageSize: 0 };
  if (of.trackWrites) yield { ...of, trackWrites: false };
  if (of.observed) yield { ...of, observed: false };
  if (of.strategy !== 'on-demand') yield { ...of, strategy: 'on-demand' };
  if (of.byteLength > 4096) yield { ...of, byteLength: Math.ceil(of.byteLength / 8192) * 4096 };
}
