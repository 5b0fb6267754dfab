// What a fault spends on being watched, counted and timed, as a share of the fault: the library's own table of threads, its counters and its second look at the clock in a
// loop of C, against a random touch of a page of a warm file. A build without them would have to be another program; this is the same code.
import { floor } from '../floor/index.js';
import { interleave, ratio } from '../lib/measure.js';
import { pagefaultSide, work } from '../lib/touch.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'watch-cost',
  title: 'watchdog, events and statistics, as a share of a random 4 KiB touch',
  target: { atMost: 2 },
  async run(context) {
    const what = work(context, { pages: context.pages, pattern: 'random' });
    const sides = {
      watching: async () => ({ ns: floor.watchCost() }),
      pagefault: pagefaultSide(context, what, { backend: 'signal', readahead: 0 }),
    };
    const { watching, pagefault } = await interleave(sides, context);
    const { value, spread } = ratio(watching, pagefault);
    const [low, high] = spread;
    const others = { watching: watching.ns, pagefault: pagefault.ns };
    return { value: value * 100, spread: [low * 100, high * 100], unit: '%', others };
  },
};
