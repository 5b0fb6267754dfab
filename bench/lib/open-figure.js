// Opening the largest segment: the time of `map()` and the memory it costs, page tables included, against mmap and UFFDIO_REGISTER in C.
// Every external ArrayBuffer of such a length makes V8 collect garbage before it is handed out, whoever makes it: the first use of a
// plain segment's buffer pays for that, and is reported apart, as is what the floor's collection took. SharedArrayBuffers are spared.
import { openSync } from 'node:fs';
import { PerformanceObserver } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { floor } from '../floor/index.js';
import { quantile } from './measure.js';
import { memory } from './memory.js';

/** Node 20 caps a buffer at 4 GiB. */
export const LARGEST = Number(process.versions.node.split('.')[0]) < 22 ? 2 ** 32 : 2 ** 36;
export const LENGTH = `${LARGEST / 2 ** 30} GiB`;

/** What one way of opening cost, round by round. */
class Costs {
  milliseconds = /** @type {number[]} */ ([]);
  touching = /** @type {number[]} */ ([]);
  collecting = /** @type {number[]} */ ([]);
  bytes = /** @type {number[]} */ ([]);
}

/**
 * Time and memory are not measured at once: the collection before memory is read throws away the optimised code of what is timed.
 * @param {import('./context.js').Context} context
 * @param {'time' | 'memory'} what
 */
export async function measureOpen({ map, stores, rounds }, what) {
  const nothing = { resident: 0, pageTables: 0 };
  const reading = what === 'memory' ? memory : () => nothing;
  const zero = openSync('/dev/zero', 'r');
  const store = stores.zero(LARGEST);
  /** @type {import('node:perf_hooks').PerformanceEntry[]} */
  const collections = [];
  new PerformanceObserver((list) => collections.push(...list.getEntries())).observe({ entryTypes: ['gc'] });

  /**
   * @template T
   * @param {Costs} costs
   * @param {() => T | Promise<T>} open
   * @param {(opened: T) => ArrayBufferLike} buffer
   * @param {(opened: T) => unknown} close
   */
  const once = async (costs, open, buffer, close) => {
    const before = reading();
    const begin = performance.now();
    const opened = await open();
    const end = performance.now();
    const { byteLength } = buffer(opened);
    const handed = performance.now();
    if (byteLength !== LARGEST) throw new Error(`The buffer has ${byteLength} bytes.`);
    const after = reading();
    await close(opened);
    await sleep(1); // the observer reports on a later turn
    costs.milliseconds.push(end - begin);
    costs.touching.push(handed - end);
    costs.bytes.push(after.resident + after.pageTables - before.resident - before.pageTables);
    const inside = collections.filter(({ startTime }) => startTime >= begin && startTime < handed);
    costs.collecting.push(inside.reduce((total, { duration }) => total + duration, 0));
    collections.length = 0;
  };

  let first = 0;
  const all = { plain: new Costs(), shared: new Costs(), floor: new Costs() };
  for (let round = -2; round < rounds; round++) {
    // The first rounds also pay for what is there once per process.
    if (round === 0) {
      first = all.plain.milliseconds[0] ?? Number.NaN;
      Object.assign(all, { plain: new Costs(), shared: new Costs(), floor: new Costs() });
    }
    await once(
      all.plain,
      () => map(store, { backend: 'signal' }),
      (segment) => segment.buffer,
      (segment) => segment.close(),
    );
    await once(
      all.shared,
      () => map(store, { backend: 'signal', shared: true }),
      (segment) => segment.buffer,
      (segment) => segment.close(),
    );
    await once(
      all.floor,
      () => floor.sigbusOpen(LARGEST, zero, 1, 0),
      (buffer) => buffer,
      floor.sigbusClose,
    );
  }
  return { ...all, first };
}

/**
 * @param {readonly number[]} values
 * @returns {[number, number]}
 */
export const quartiles = (values) => [quantile(values, 0.25), quantile(values, 0.75)];
