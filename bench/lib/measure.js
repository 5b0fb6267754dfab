// How a figure is taken: sides that are measured in turn within each round, so that a slow moment of the machine meets all of them;
// the order of the sides alternates; the first round only warms up; what counts is the median of what the rounds say.
import { floor } from '../floor/index.js';

/**
 * One measurement of one side. `busy` is the share of the time in which the measuring thread had a CPU; absent where it waits for others; 0
 * where something else makes the measurement worthless.
 * @typedef {{ ns: number, busy?: number }} Sample
 * @typedef {() => Sample | Promise<Sample>} Side
 */

/**
 * @typedef {object} Measured
 * @property {number} ns median
 * @property {number[]} samples by round
 */

/** A single thread that had less of a CPU than this was disturbed, and is measured again. */
const UNDISTURBED = 0.97;
const ATTEMPTS = 4;

/** @param {readonly number[]} values */
export function median(values) {
  return quantile(values, 0.5);
}

/**
 * @param {readonly number[]} values
 * @param {number} share
 */
export function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (sorted.length - 1) * share;
  const low = sorted[Math.floor(at)] ?? Number.NaN;
  const high = sorted[Math.ceil(at)] ?? Number.NaN;
  return low + (high - low) * (at - Math.floor(at));
}

/**
 * Runs fn once and returns its time divided by `count`.
 * @param {number} count
 * @param {() => void} fn
 * @returns {Sample}
 */
export function timed(count, fn) {
  const cpu = floor.threadCpuNs();
  const begin = process.hrtime.bigint();
  fn();
  const wall = Number(process.hrtime.bigint() - begin);
  return { ns: wall / count, busy: (floor.threadCpuNs() - cpu) / wall };
}

/**
 * Measures all sides, `rounds` times each.
 * @template {string} Name
 * @param {Record<Name, Side>} sides
 * @param {{ rounds: number }} options
 * @returns {Promise<Record<Name, Measured>>}
 */
export async function interleave(sides, { rounds }) {
  const names = /** @type {Name[]} */ (Object.keys(sides));
  /** @type {Map<Name, number[]>} */
  const samples = new Map(names.map((name) => [name, []]));
  for (let round = 0; round <= rounds; round++) {
    const order = round % 2 === 0 ? names : [...names].reverse();
    for (const name of order) {
      const ns = await undisturbed(sides[name]);
      if (round > 0) samples.get(name)?.push(ns);
    }
  }
  const entries = names.map((name) => {
    const taken = samples.get(name) ?? [];
    return [name, { ns: median(taken), samples: taken }];
  });
  return Object.fromEntries(entries);
}

/** @param {Side} side */
async function undisturbed(side) {
  let best = await side();
  for (let attempt = 1; attempt < ATTEMPTS && best.busy !== undefined && best.busy < UNDISTURBED; attempt++) {
    const again = await side();
    if ((again.busy ?? 1) > best.busy) best = again;
  }
  if (best.busy === 0)
    throw new Error('The floor was disturbed each time: another signal handler was put over its own.');
  return best.ns;
}

/**
 * The median of the ratios within each round, whose sides were measured one right after the other; and their quartiles, which show how far
 * to trust it. The ratio of the two medians would compare rounds that the machine treated differently.
 * @param {Measured} numerator
 * @param {Measured} denominator
 * @returns {{ value: number, spread: [number, number] }}
 */
export function ratio(numerator, denominator) {
  return summary(numerator.samples.map((ns, round) => ns / (denominator.samples[round] ?? Number.NaN)));
}

/**
 * @param {readonly number[]} byRound
 * @returns {{ value: number, spread: [number, number] }}
 */
export function summary(byRound) {
  return { value: median(byRound), spread: [quantile(byRound, 0.25), quantile(byRound, 0.75)] };
}
