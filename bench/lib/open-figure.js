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

/** As many are open at once when memory is measured, so that the garbage of JavaScript weighs less. */
const TOGETHER = 8;

const zero = openSync('/dev/zero', 'r');

/** What is measured: how to open one, to use its buffer, to close it. */
class Way {
  /**
   * @param {() => any} open
   * @param {(opened: any) => ArrayBufferLike} buffer
   * @param {(opened: any) => unknown} close
   */
  constructor(open, buffer, close) {
    this.open = open;
    this.buffer = buffer;
    this.close = close;
  }
}

/** @param {import('./context.js').Context} context */
function ways({ map, stores }) {
  const store = stores.zero(LARGEST);
  /** @param {import('pagefault').MapOptions} options */
  const segment = (options) =>
    new Way(
      () => map(store, { backend: 'signal', ...options }),
      (/** @type {import('pagefault').Segment} */ opened) => opened.buffer,
      (/** @type {import('pagefault').Segment} */ opened) => opened.close(),
    );
  return {
    plain: segment({}),
    shared: segment({ shared: true }),
    floor: new Way(
      () => floor.sigbusOpen(LARGEST, zero, 1, 0),
      (buffer) => buffer,
      floor.sigbusClose,
    ),
  };
}

/** The times of one way of opening, in ms, round by round. */
class Times {
  opening = /** @type {number[]} */ ([]);
  firstUse = /** @type {number[]} */ ([]);
  collecting = /** @type {number[]} */ ([]);
}

/**
 * Apart from memory: the collection before memory is read throws away the optimised code of what is timed here.
 * @param {import('./context.js').Context} context
 */
export async function openingTimes(context) {
  /** @type {import('node:perf_hooks').PerformanceEntry[]} */
  const collections = [];
  new PerformanceObserver((list) => collections.push(...list.getEntries())).observe({ entryTypes: ['gc'] });
  /** @type {Record<'plain' | 'shared' | 'floor', Times>} */
  const times = { plain: new Times(), shared: new Times(), floor: new Times() };
  for (let round = 0; round <= context.rounds; round++) {
    for (const [name, way] of Object.entries(ways(context))) {
      const begin = performance.now();
      const opened = await way.open();
      const end = performance.now();
      const { byteLength } = way.buffer(opened);
      const used = performance.now();
      if (byteLength !== LARGEST) throw new Error(`The buffer has ${byteLength} bytes.`);
      await way.close(opened);
      await sleep(1); // the observer reports on a later turn
      const inside = collections.filter(({ startTime }) => startTime >= begin && startTime < used);
      collections.length = 0;
      const { opening, firstUse, collecting } = times[/** @type {keyof typeof times} */ (name)];
      opening.push(end - begin);
      firstUse.push(used - end);
      collecting.push(inside.reduce((total, { duration }) => total + duration, 0));
    }
  }
  // The first round also pays for what is there once per process.
  const first = times.plain.opening[0] ?? Number.NaN;
  for (const lists of Object.values(times)) for (const list of Object.values(lists)) list.shift();
  return { ...times, first };
}

/**
 * Bytes of resident memory and page tables, round by round.
 * @param {import('./context.js').Context} context
 */
export async function openingMemory(context) {
  /** @type {Record<'plain' | 'shared' | 'floor', number[]>} */
  const bytes = { plain: [], shared: [], floor: [] };
  for (let round = -1; round < context.rounds; round++) {
    for (const [name, way] of Object.entries(ways(context))) {
      const count = name === 'floor' ? 1 : TOGETHER;
      const opened = [];
      // V8 gives back more where a long buffer makes it collect: let it do so before, too.
      for (let i = 0; i < count; i++) floor.sigbusClose(floor.sigbusOpen(LARGEST, zero, 1, 0));
      const before = memory();
      for (let i = 0; i < count; i++) opened.push(await way.open());
      for (const one of opened) way.buffer(one);
      const after = memory();
      for (const one of opened) await way.close(one);
      await sleep(20); // some of it is given back later
      const grown = after.resident + after.pageTables - before.resident - before.pageTables;
      if (round >= 0) bytes[/** @type {keyof typeof bytes} */ (name)].push(grown / count);
    }
  }
  return bytes;
}

/**
 * @param {readonly number[]} values
 * @returns {[number, number]}
 */
export const quartiles = (values) => [quantile(values, 0.25), quantile(values, 0.75)];
