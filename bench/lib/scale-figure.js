// How much faster several Workers fault on as many parts of one shared segment than one Worker that does all, against the same question asked of C threads. They are
// spread over two CPUs. Random order, no read-ahead, a file.
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { floor } from '../floor/index.js';
import { interleave, summary } from './measure.js';
import { verify, work } from './touch.js';

/**
 * @param {import('./context.js').Context} context
 * @param {number} count of Workers, a power of two
 * @returns {Promise<import('./context.js').Result>}
 */
export async function measureScale(context, count) {
  const [first, second] = floor.cpus();
  if (first === undefined || second === undefined) throw new Error('This figure needs two CPUs.');
  // Few pages: shared memory that is not collected yet keeps pagefault looking after its signal handlers once a second, and a floor must
  // be done between two looks.
  const pages = context.pages / 4;
  const what = work(context, { pages, pattern: 'random' });
  const share = pages / count;
  const parts = Array.from({ length: count }, (_, i) => what.order.filter((page) => Math.floor(page / share) === i));
  const order = Uint32Array.from(parts.flatMap((part) => [...part]));

  const start = new Int32Array(new SharedArrayBuffer(4));
  const workers = parts.map((_, i) => {
    const workerData = { cpu: i % 2 === 0 ? first : second, start };
    return new Worker(new URL('../threads/touch.js', import.meta.url), { workerData });
  });
  /**
   * @param {Uint32Array[]} split one for each Worker that takes part
   * @returns {import('./measure.js').Side}
   */
  const touchedBy = (split) => async () => {
    const options = /** @type {const} */ ({
      byteLength: what.byteLength,
      backend: 'signal',
      readahead: 0,
      shared: true,
    });
    const segment = await context.map(context.stores.file(what.path), options);
    const turn = Atomics.load(start, 0) + 1;
    await Promise.all(
      split.map((part, index) => {
        const worker = /** @type {Worker} */ (workers[index]);
        worker.postMessage({ handle: segment.handle, order: part, turn });
        return once(worker, 'message');
      }),
    );
    const answers = Promise.all(split.map((_, index) => once(/** @type {Worker} */ (workers[index]), 'message')));
    Atomics.store(start, 0, turn);
    Atomics.notify(start, 0);
    const times = (await answers).map(([message]) => message);
    await segment.close();
    verify('pagefault', times.reduce((total, { sum }) => total + sum, 0) >>> 0, what.sum);
    const begin = Math.min(...times.map((time) => time.begin));
    const end = Math.max(...times.map((time) => time.end));
    return { ns: (end - begin) / pages };
  };
  /**
   * @param {number} threads
   * @returns {import('./measure.js').Side}
   */
  const inC = (threads) => () => {
    const sum = new Uint32Array(1);
    const ns = floor.sigbusScale(what.byteLength, what.fd, order, threads, sum);
    verify('The floor', /** @type {number} */ (sum[0]), what.sum);
    return ns < 0 ? { ns: -ns / pages, busy: 0 } : { ns: ns / pages };
  };

  const sides = { one: touchedBy([order]), oneInC: inC(1), all: touchedBy(parts), allInC: inC(count) };
  const { one, all, oneInC, allInC } = await interleave(sides, context);
  await Promise.all(workers.map((worker) => worker.terminate()));
  const byRound = one.samples.map((_, round) => {
    /** @param {import('./measure.js').Measured} side */
    const at = ({ samples }) => samples[round] ?? Number.NaN;
    return at(one) / at(all) / (at(oneInC) / at(allInC));
  });
  return {
    ...summary(byRound),
    unit: 'x',
    pagefault: one.ns / all.ns,
    floor: oneInC.ns / allInC.ns,
    per: 'speed-up',
    others: { 'one ns/page': one.ns, all: all.ns, 'C one': oneInC.ns, 'C all': allInC.ns },
  };
}
