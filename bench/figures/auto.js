// What `backend: 'auto'` picks for a local file without a budget, and what a sequential scan through it costs against the kernel's mmap,
// which is what we recommend for such a file.
import { interleave, ratio } from '../lib/measure.js';
import { mmapSide, pagefaultSide, readSyncSide, work } from '../lib/touch.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'auto',
  title: "sequential touches with backend 'auto' and a local file, against kernel mmap",
  target: null,
  async run(context) {
    const what = work(context, { pages: context.pages, pattern: 'sequential' });
    const segment = await context.map(context.stores.file(what.path));
    const { backend } = segment;
    await segment.close();
    const sides = { pagefault: pagefaultSide(context, what, {}), mmap: mmapSide(what), readSync: readSyncSide(what) };
    const { pagefault, mmap, readSync } = await interleave(sides, context);
    return {
      ...ratio(pagefault, mmap),
      unit: 'x',
      pagefault: pagefault.ns,
      floor: mmap.ns,
      others: { 'fs.readSync': readSync.ns },
      note: `the backend picked is '${backend}'`,
    };
  },
};
