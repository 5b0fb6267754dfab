/**
 * How long things took: counts in buckets that are at most 1.6 % wide, so that any percentile can be told without keeping each value.
 * Plain arithmetic, no allocation when a value is added. Any thread.
 */

const SUB_BITS = 6;
const SUBS = 2 ** SUB_BITS;
const BUCKETS = SUBS * (53 - SUB_BITS);

/** Percentiles in nanoseconds; all 0 where nothing was counted. */
export interface Percentiles {
  readonly count: number;
  readonly p50: number;
  readonly p90: number;
  readonly p99: number;
  readonly p999: number;
  readonly max: number;
}

/** A histogram of durations in nanoseconds. */
export class Latencies {
  readonly #counts = new Float64Array(BUCKETS);
  #count = 0;
  #max = 0;
  #sum = 0;

  /** Values below 64 ns have a bucket each; above, each power of two has 64. */
  add(ns: number, times = 1): void {
    const value = ns > 0 ? Math.round(ns) : 0;
    const index = Math.min(bucketOf(value), BUCKETS - 1);
    this.#counts[index] = (this.#counts[index] ?? 0) + times;
    this.#count += times;
    this.#sum += value * times;
    if (value > this.#max) this.#max = value;
  }

  /** Adds what another histogram has counted. */
  merge(other: Latencies): void {
    for (let i = 0; i < BUCKETS; i++) this.#counts[i] = (this.#counts[i] ?? 0) + (other.#counts[i] ?? 0);
    this.#count += other.#count;
    this.#sum += other.#sum;
    this.#max = Math.max(this.#max, other.#max);
  }

  /** Of all values, in nanoseconds. */
  get sum(): number {
    return this.#sum;
  }

  percentiles(): Percentiles {
    const at = (share: number): number => this.#percentile(share);
    return { count: this.#count, p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: this.#max };
  }

  /** Counts by powers of two, as `renderHistogram` of `pagefault/observe` draws them. */
  powersOfTwo(): number[] {
    const out = new Array<number>(40).fill(0);
    for (let i = 0; i < BUCKETS; i++) {
      const count = this.#counts[i] ?? 0;
      if (count === 0) continue;
      const power = Math.min(39, Math.floor(Math.log2(Math.max(1, lowest(i)))));
      out[power] = (out[power] ?? 0) + count;
    }
    return out;
  }

  #percentile(share: number): number {
    const rank = Math.ceil(this.#count * share);
    if (rank === 0) return 0;
    let seen = 0;
    for (let i = 0; i < BUCKETS; i++) {
      seen += this.#counts[i] ?? 0;
      if (seen >= rank) return Math.min(this.#max, lowest(i + 1) - 1);
    }
    return this.#max;
  }
}

/** Shifts where they suffice (2 s): this is on the way of every fault. */
function bucketOf(value: number): number {
  if (value < SUBS) return value;
  if (value < 2 ** 31) {
    const exponent = 31 - Math.clz32(value) - SUB_BITS;
    return exponent * SUBS + (value >>> exponent);
  }
  const exponent = Math.floor(Math.log2(value)) - SUB_BITS;
  return exponent * SUBS + Math.floor(value / 2 ** exponent);
}

/** The least value of a bucket. Buckets above the first 64 hold the upper half of their range only: the lower is the bucket before. */
function lowest(index: number): number {
  if (index < 2 * SUBS) return index;
  const exponent = Math.floor(index / SUBS) - 1;
  return (index - exponent * SUBS) * 2 ** exponent;
}
