// The first write to a clean page while another thread flushes the segment in a loop. The kernel notes the write by itself on both sides: what may
// differ is how much a flush stands in its way. Every page is present and clean when the clock starts, and is written to once, in random order.
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { floor } from '../floor/index.js';
import { interleave, ratio, timed } from '../lib/measure.js';
import { shuffled } from '../lib/touch.js';
import { markPages, ownFile, verifyFile } from '../lib/writes.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'first-write',
  title: 'first write to a clean page while a flush runs, against WP_ASYNC + a flushing thread',
  target: { atMost: 1.2 },
  async run(context) {
    const { map, stores, pages } = context;
    const file = ownFile(context, { pages });
    const order = shuffled(pages);
    const state = new Int32Array(new SharedArrayBuffer(8));
    const worker = new Worker(new URL('../threads/flush.js', import.meta.url), { workerData: state });
    let round = 0;
    /** @type {number[][]} */
    const flushes = [[], []];
    const every = () => true;

    /**
     * @param {boolean} flushed
     * @returns {import('../lib/measure.js').Side}
     */
    const ours = (flushed) => async () => {
      const segment = await map(stores.file(file.path), { backend: 'signal', writable: true, shared: true });
      await segment.load();
      state.fill(0);
      if (flushed) {
        worker.postMessage(segment.handle);
        while (Atomics.load(state, 0) < 2) await new Promise((resolve) => setTimeout(resolve, 1));
      }
      round++;
      const { ns } = timed(pages, () => markPages(segment.buffer, order, round));
      flushes[0]?.push(Atomics.load(state, 0));
      Atomics.store(state, 1, 1);
      if (flushed) await once(worker, 'message');
      await segment.close();
      verifyFile('pagefault', file, every, round);
      return { ns };
    };
    /**
     * @param {boolean} flushed
     * @returns {import('../lib/measure.js').Side}
     */
    const inC = (flushed) => () => {
      const buffer = floor.writesOpen(file.byteLength, file.fd);
      if (flushed) floor.writesFlushBegin();
      round++;
      const { ns } = timed(pages, () => markPages(buffer, order, round));
      flushes[1]?.push(floor.writesFlushes());
      if (flushed) floor.writesFlushEnd();
      floor.writesClose(buffer);
      if (flushed) verifyFile('The floor', file, every, round);
      return { ns };
    };
    const sides = { pagefault: ours(true), floor: inC(true), alone: ours(false), floorAlone: inC(false) };
    const { pagefault, floor: bare, alone, floorAlone } = await interleave(sides, context);
    await worker.terminate();
    const [least, leastInC] = flushes.map((counts) => Math.max(...counts));
    return {
      ...ratio(pagefault, bare),
      unit: 'x',
      pagefault: pagefault.ns,
      floor: bare.ns,
      others: { 'no flush': alone.ns, 'C, no flush': floorAlone.ns },
      note: `up to ${least} flushes ran in a round of pagefault, up to ${leastInC} in one of the floor`,
    };
  },
};
