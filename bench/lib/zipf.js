// A trace of page numbers with the skew of real caches, and the loads that textbook policies need for it.
import { random, shuffled } from './touch.js';

/**
 * `touches` page numbers below `pages`: the k-th most popular page is touched in proportion to 1 / k^skew; which page that is, is shuffled.
 * @param {{ pages: number, touches: number, skew: number, seed: number }} options
 */
export function zipf({ pages, touches, skew, seed }) {
  const cumulated = new Float64Array(pages);
  let total = 0;
  for (let rank = 0; rank < pages; rank++) {
    total += 1 / (rank + 1) ** skew;
    cumulated[rank] = total;
  }
  const next = random(seed);
  const pageOf = shuffled(pages, seed + 1);
  const trace = new Uint32Array(touches);
  for (let i = 0; i < touches; i++) {
    const wanted = next() * total;
    let low = 0;
    let high = pages - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (/** @type {number} */ (cumulated[middle]) < wanted) low = middle + 1;
      else high = middle;
    }
    trace[i] = /** @type {number} */ (pageOf[low]);
  }
  return trace;
}

/**
 * Loads that a queue of `capacity` pages needs: first in, first out; or, with `recency`, least recently used out.
 * @param {Uint32Array} trace
 * @param {number} capacity
 * @param {{ recency: boolean }} options
 */
export function simulate(trace, capacity, { recency }) {
  /** @type {Set<number>} */
  const present = new Set();
  let loads = 0;
  for (const page of trace) {
    if (present.has(page)) {
      if (recency) {
        present.delete(page);
        present.add(page);
      }
      continue;
    }
    loads++;
    if (present.size === capacity) {
      const [oldest] = present;
      present.delete(/** @type {number} */ (oldest));
    }
    present.add(page);
  }
  return loads;
}
