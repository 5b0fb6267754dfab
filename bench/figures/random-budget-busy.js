// Random touches under a budget of an eighth while a second thread of the process runs: each batch of pages dropped interrupts the
// other CPU. Against the floor in C with a FIFO of the same size, under the same second thread.
import { Worker } from 'node:worker_threads';
import { interleave, ratio } from '../lib/measure.js';
import { PAGE, pagefaultSide, sigbusFloor, work } from '../lib/touch.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'random-budget-busy',
  title: 'random touches under a budget of 1/8 with a second thread running, against a FIFO in C',
  target: null,
  async run(context) {
    const what = work(context, { pages: context.pages, pattern: 'random' });
    const capacity = context.pages / 8;
    const options = /** @type {const} */ ({ backend: 'signal', readahead: 0, resident: capacity * PAGE });
    const state = new Int32Array(new SharedArrayBuffer(4));
    const spinner = new Worker(new URL('../threads/spin.js', import.meta.url), { workerData: state });
    /**
     * @param {import('../lib/measure.js').Side} side
     * @returns {import('../lib/measure.js').Side}
     */
    const busy = (side) => async () => {
      Atomics.store(state, 0, 1);
      Atomics.notify(state, 0);
      const { ns } = await side();
      Atomics.store(state, 0, 0);
      return { ns };
    };
    const sides = {
      pagefault: busy(pagefaultSide(context, what, options)),
      floor: busy(sigbusFloor(what, { capacity })),
      alone: pagefaultSide(context, what, options),
      floorAlone: sigbusFloor(what, { capacity }),
    };
    const { pagefault, floor, alone, floorAlone } = await interleave(sides, context);
    Atomics.store(state, 0, 2);
    Atomics.notify(state, 0);
    await spinner.terminate();
    return {
      ...ratio(pagefault, floor),
      unit: 'x',
      pagefault: pagefault.ns,
      floor: floor.ns,
      others: { alone: alone.ns, 'C alone': floorAlone.ns },
    };
  },
};
