// Each page of a warm file once, in random order, without read-ahead: the price of one fault.
import { interleave, ratio } from '../lib/measure.js';
import { mmapSide, pagefaultSide, readSyncSide, sigbusFloor, work } from '../lib/touch.js';

/**
 * @param {number | 'auto'} readahead
 * @returns {(context: import('../lib/context.js').Context) => Promise<import('../lib/context.js').Result>}
 */
export function runRandom(readahead) {
  return async (context) => {
    const what = work(context, { pages: context.pages, pattern: 'random' });
    const sides = {
      pagefault: pagefaultSide(context, what, { backend: 'signal', readahead }),
      floor: sigbusFloor(what),
      mmap: mmapSide(what),
      readSync: readSyncSide(what),
    };
    const { pagefault, floor, mmap, readSync } = await interleave(sides, context);
    return {
      ...ratio(pagefault, floor),
      unit: 'x',
      pagefault: pagefault.ns,
      floor: floor.ns,
      others: { mmap: mmap.ns, 'fs.readSync': readSync.ns },
    };
  };
}

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'random',
  title: 'random 4 KiB touches, no read-ahead, against SIGBUS + pread + UFFDIO_COPY',
  target: { atMost: 1.2 },
  run: runRandom(0),
};
