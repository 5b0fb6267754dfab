/** What is paged, seen by all that looks at it or steers it: a child, or this process itself with `--threads`. */
import type { GuestStats } from '../../guests/counters.js';
import type { Latencies } from '../../guests/latency.js';
import type { GuestRegion } from '../../guests/region.js';
import type { Strategy } from '../../guests/strategy.js';
import type { DirtyPages } from './dirty.js';
import type { Letters } from './letters.js';

export interface Pager {
  readonly pid: number;
  readonly regions: readonly GuestRegion[];
  strategy: Strategy;
  readonly latencies: Latencies;
  stats(): GuestStats;
}

/** One of them with its letters, and, where lines are told, the pages it has written to. */
export interface Paged {
  readonly pager: Pager;
  readonly letters: Letters;
  readonly dirty: DirtyPages;
}
