// dirty() of a segment of 1 GiB that is all there and was not written to.
import { measureDirty } from '../lib/dirty-figure.js';
import { summary } from '../lib/measure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'dirty-set-clean',
  title: 'dirty() of 1 GiB that is resident and clean',
  target: { atMost: 1 },
  async run(context) {
    const { pagefault, floor } = await measureDirty(context, 'clean');
    return {
      ...summary(pagefault.samples.map((ns) => ns / 1e6)),
      unit: 'ms',
      pagefault: pagefault.ns / 1e6,
      floor: floor.ns / 1e6,
      per: 'ms',
    };
  },
};
