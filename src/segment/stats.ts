/** The numbers of a segment, taken from the core in one call. Any thread. */

import { HISTOGRAM_BUCKETS, STAT, type StatName } from '../native/binding.js';
import type { Region } from './region.js';

/** How long faults took, from the touch to the page being there, in ns. */
export interface LatencyStats {
  /** Half took no longer. Exact to the bucket, a power of two, and interpolated within it. */
  p50: number;
  p90: number;
  p99: number;
  /** The upper bound of the last bucket that counts something. */
  max: number;
  /** Bucket i counts the faults of 2^i to 2^(i+1) ns. */
  buckets: number[];
}

/** Counts and bytes since the segment was made; see the names in the docs. */
export type SegmentStats = Record<StatName, number> & { latency: LatencyStats };

/** The time that `share` (0 to 1) of the faults did not exceed; 0 where there are none. */
export function quantile(buckets: readonly number[], share: number): number {
  const total = buckets.reduce((sum, count) => sum + count, 0);
  const wanted = total * share;
  let seen = 0;
  for (const [i, count] of buckets.entries()) {
    if (count > 0 && seen + count >= wanted) return Math.round(2 ** i * (1 + Math.max(0, wanted - seen) / count));
    seen += count;
  }
  return 0;
}

/** One consistent snapshot. */
export function readStats(region: Region): SegmentStats {
  const numbers = new Float64Array(STAT.length + HISTOGRAM_BUCKETS);
  region.call((core, id) => core.regionStats(id, numbers));
  const counts = Object.fromEntries(STAT.map((name, i) => [name, numbers[i] ?? 0])) as Record<StatName, number>;
  const buckets = Array.from(numbers.subarray(STAT.length));
  const last = buckets.findLastIndex((count) => count > 0);
  return {
    ...counts,
    latency: {
      p50: quantile(buckets, 0.5),
      p90: quantile(buckets, 0.9),
      p99: quantile(buckets, 0.99),
      max: last < 0 ? 0 : 2 ** (last + 1),
      buckets,
    },
  };
}
