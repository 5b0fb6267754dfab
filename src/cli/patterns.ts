/**
 * The order in which `pagefault map` touches pages: at random, or by Zipf's law as caches see it, where few pages take
 * most touches. The same seed gives the same pages, so that a run can be repeated. Pure, any thread.
 */

export const PATTERNS = ['seq', 'random', 'zipf'] as const;
export type Pattern = (typeof PATTERNS)[number];

const SEED = 1;
const SKEW = 0.99;
/** Spreads the ranks over the pages, so that the popular ones are not neighbours. A prime. */
const SCATTER = 1_000_003;

/** Numbers from 0 to 1: mulberry32. */
export function randomNumbers(seed: number = SEED): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Page numbers below `pageCount`, `touches` of them. */
export function* touchedPages(pattern: 'random' | 'zipf', pageCount: number, touches: number): Generator<number> {
  const random = randomNumbers();
  const next = pattern === 'random' ? () => Math.floor(random() * pageCount) : zipfRanks(pageCount, random);
  for (let i = 0; i < touches; i++) {
    yield pattern === 'random' ? next() : (next() * SCATTER) % pageCount;
  }
}

/**
 * Ranks from 0 with probability proportional to 1 / (rank + 1)^0.99, by the inversion of Gray and others ("Quickly
 * generating billion-record synthetic databases", 1994): one pass over the ranks at first, then constant time.
 */
function zipfRanks(count: number, random: () => number): () => number {
  let total = 0;
  for (let rank = 1; rank <= count; rank++) total += rank ** -SKEW;
  const firstTwo = 1 + 2 ** -SKEW;
  const slope = (1 - (2 / count) ** (1 - SKEW)) / (1 - firstTwo / total);
  return () => {
    const drawn = random();
    const scaled = drawn * total;
    if (scaled < 1 || count === 1) return 0;
    if (scaled < firstTwo || count === 2) return 1;
    return Math.min(count - 1, Math.floor(count * (slope * drawn - slope + 1) ** (1 / (1 - SKEW))));
  };
}
