// A scan of a file of 8 × the budget, against the same scan without a budget: what dropping pages costs. The floor in C with the same
// budget is reported beside it.
import { interleave, ratio } from '../lib/measure.js';
import { mmapSide, PAGE, pagefaultSide, readSyncSide, sigbusFloor, work } from '../lib/touch.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'scan-budget',
  title: 'speed of a scan of 8 × the budget, against the scan without a budget',
  target: { atLeast: 0.85 },
  async run(context) {
    const what = work(context, { pages: context.pages, pattern: 'sequential' });
    const capacity = context.pages / 8;
    const sides = {
      bounded: pagefaultSide(context, what, { backend: 'signal', readahead: 'auto', resident: capacity * PAGE }),
      free: pagefaultSide(context, what, { backend: 'signal', readahead: 'auto' }),
      floor: sigbusFloor(what, { batch: 64, capacity }),
      mmap: mmapSide(what),
      readSync: readSyncSide(what),
    };
    const { bounded, free, floor, mmap, readSync } = await interleave(sides, context);
    return {
      ...ratio(free, bounded),
      unit: 'x',
      pagefault: bounded.ns,
      floor: free.ns,
      others: { 'C with the budget': floor.ns, mmap: mmap.ns, 'fs.readSync': readSync.ns },
    };
  },
};
