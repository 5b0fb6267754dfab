// Two Workers on two CPUs fault on two halves of one shared segment: how much faster than one Worker that does all, against the same
// question asked of two C threads. Random order, no read-ahead, a file.
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { floor } from '../floor/index.js';
import { interleave, summary } from '../lib/measure.js';
import { verify, work } from '../lib/touch.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'two-workers',
  title: 'speed-up of two faulting Workers on two CPUs, against the speed-up of two C threads',
  target: { atLeast: 0.8 },
  async run(context) {
    const [first, second] = floor.cpus();
    if (first === undefined || second === undefined) throw new Error('This figure needs two CPUs.');
    // Few pages: shared memory that is not collected yet keeps pagefault looking after its signal handlers once a second, and a floor must
    // be done between two looks.
    const pages = context.pages / 4;
    const what = work(context, { pages, pattern: 'random' });
    const middle = pages / 2;
    const halves = [what.order.filter((page) => page < middle), what.order.filter((page) => page >= middle)];
    const order = Uint32Array.from(halves.flatMap((half) => [...half]));

    const start = new Int32Array(new SharedArrayBuffer(4));
    const workers = [first, second].map(
      (cpu) => new Worker(new URL('../threads/touch.js', import.meta.url), { workerData: { cpu, start } }),
    );
    /**
     * @param {Uint32Array[]} parts one for each Worker that takes part
     * @returns {import('../lib/measure.js').Side}
     */
    const touchedBy = (parts) => async () => {
      const options = /** @type {const} */ ({
        byteLength: what.byteLength,
        backend: 'signal',
        readahead: 0,
        shared: true,
      });
      const segment = await context.map(context.stores.file(what.path), options);
      const turn = Atomics.load(start, 0) + 1;
      await Promise.all(
        parts.map((part, index) => {
          const worker = /** @type {Worker} */ (workers[index]);
          worker.postMessage({ handle: segment.handle, order: part, turn });
          return once(worker, 'message');
        }),
      );
      const answers = Promise.all(parts.map((_, index) => once(/** @type {Worker} */ (workers[index]), 'message')));
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
     * @returns {import('../lib/measure.js').Side}
     */
    const inC = (threads) => () => {
      const sum = new Uint32Array(1);
      const ns = floor.sigbusScale(what.byteLength, what.fd, order, threads, sum);
      verify('The floor', /** @type {number} */ (sum[0]), what.sum);
      return ns < 0 ? { ns: -ns / pages, busy: 0 } : { ns: ns / pages };
    };

    const sides = { one: touchedBy([order]), oneInC: inC(1), two: touchedBy(halves), twoInC: inC(2) };
    const { one, two, oneInC, twoInC } = await interleave(sides, context);
    await Promise.all(workers.map((worker) => worker.terminate()));
    const byRound = one.samples.map((_, round) => {
      /** @param {import('../lib/measure.js').Measured} side */
      const at = ({ samples }) => samples[round] ?? Number.NaN;
      return at(one) / at(two) / (at(oneInC) / at(twoInC));
    });
    return {
      ...summary(byRound),
      unit: 'x',
      pagefault: one.ns / two.ns,
      floor: oneInC.ns / twoInC.ns,
      per: 'speed-up',
      others: { 'one ns/page': one.ns, two: two.ns, 'C one': oneInC.ns, 'C two': twoInC.ns },
    };
  },
};
