// Random touches on the `mprotect` backend. Half as many pages as elsewhere: in random order the floor needs up to one kernel
// mapping for every second page, and the kernel allows 65,530 by default.
import { interleave, ratio } from '../lib/measure.js';
import { mmapSide, mprotectFloor, pagefaultSide, readSyncSide, work } from '../lib/touch.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'random-mprotect',
  title: 'random 4 KiB touches on the mprotect backend, against SIGSEGV + fill + mprotect',
  target: { atMost: 1.2 },
  async run(context) {
    const what = work(context, { pages: context.pages / 2, pattern: 'random' });
    const sides = {
      pagefault: pagefaultSide(context, what, { backend: 'mprotect', readahead: 0 }),
      floor: mprotectFloor(what),
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
  },
};
