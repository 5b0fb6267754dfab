// Each page of a warm file once, in order, with automatic read-ahead, against a floor that brings 64 pages with each fault. The
// result is a speed: 1 is as fast as the floor.
import { interleave, ratio } from '../lib/measure.js';
import { mmapSide, pagefaultSide, readSyncSide, sigbusFloor, work } from '../lib/touch.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'sequential',
  title: 'speed of sequential touches, automatic read-ahead, against batches of 64 pages',
  target: { atLeast: 0.9 },
  async run(context) {
    const what = work(context, { pages: context.pages, pattern: 'sequential' });
    const sides = {
      pagefault: pagefaultSide(context, what, { backend: 'signal', readahead: 'auto' }),
      floor: sigbusFloor(what, { batch: 64 }),
      mmap: mmapSide(what),
      readSync: readSyncSide(what),
    };
    const { pagefault, floor, mmap, readSync } = await interleave(sides, context);
    return {
      ...ratio(floor, pagefault),
      unit: 'x',
      pagefault: pagefault.ns,
      floor: floor.ns,
      others: { mmap: mmap.ns, 'fs.readSync': readSync.ns },
    };
  },
};
