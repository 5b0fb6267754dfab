// dirty() of a segment of 1 GiB of which every page was written to.
import { measureDirty } from '../lib/dirty-figure.js';
import { ratio } from '../lib/measure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'dirty-set-dirty',
  title: 'dirty() of 1 GiB that is all dirty, against one PAGEMAP_SCAN of the same memory',
  target: { atMost: 1.3 },
  async run(context) {
    const { pagefault, floor } = await measureDirty(context, 'dirty');
    return {
      ...ratio(pagefault, floor),
      unit: 'x',
      pagefault: pagefault.ns / 1e6,
      floor: floor.ns / 1e6,
      per: 'ms',
    };
  },
};
