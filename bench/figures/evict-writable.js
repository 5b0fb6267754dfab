// Random reads of a writable segment under a budget of an eighth, against the same of a read-only one: what it costs that a page which is dropped
// might have been written to.
import { interleave, ratio } from '../lib/measure.js';
import { PAGE, pagefaultSide, work } from '../lib/touch.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'evict-writable',
  title: 'speed of random reads of a writable segment under a budget of 1/8, against a read-only one',
  target: { atLeast: 0.85 },
  async run(context) {
    const what = work(context, { pages: context.pages, pattern: 'random' });
    const resident = (context.pages / 8) * PAGE;
    const options = /** @type {const} */ ({ backend: 'signal', readahead: 0 });
    const sides = {
      writable: pagefaultSide(context, what, { ...options, resident, writable: true }),
      readOnly: pagefaultSide(context, what, { ...options, resident }),
      writableFree: pagefaultSide(context, what, { ...options, writable: true }),
      readOnlyFree: pagefaultSide(context, what, options),
    };
    const { writable, readOnly, writableFree, readOnlyFree } = await interleave(sides, context);
    return {
      ...ratio(readOnly, writable),
      unit: 'x',
      pagefault: writable.ns,
      floor: readOnly.ns,
      others: { 'no budget, writable': writableFree.ns, 'no budget, read-only': readOnlyFree.ns },
    };
  },
};
