// Opening pages that are in a memory object already, because another segment read them: load() of a segment that lies under shared memory, of which
// another segment has filled every page. Nothing is read and nothing copied. Floor: UFFDIO_CONTINUE of 64 pages a call.
import { sharedMemory } from 'pagefault';
import { floor } from '../floor/index.js';
import { interleave, ratio, timed } from '../lib/measure.js';
import { PAGE, touch, verify, work } from '../lib/touch.js';
import { timedAsync } from '../lib/writes.js';

/** Pages that the floor opens with each call. */
const BATCH = 64;

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'memfd-continue',
  title: 'load() of pages that shared memory has, against UFFDIO_CONTINUE of 64 pages a call',
  target: { atMost: 1.3 },
  async run(context) {
    const { map, stores, pages } = context;
    const what = work(context, { pages, pattern: 'sequential' });
    const hot = sharedMemory(what.byteLength);
    const first = await map(stores.file(what.path), { backend: 'memfd', byteLength: what.byteLength });
    first.patch(0, hot);
    await first.load();
    const memory = floor.continueOpen(what.byteLength);
    const sides = {
      pagefault: async () => {
        const segment = await map(stores.file(what.path), { backend: 'memfd', byteLength: what.byteLength });
        segment.patch(0, hot);
        const sample = await timedAsync(pages, () => segment.load());
        verify('pagefault', touch(segment.view(Uint8Array), what.order, PAGE), what.sum);
        const { storeReads } = segment.stats();
        await segment.close();
        if (storeReads !== 0) throw new Error(`The store was read ${storeReads} times.`);
        return sample;
      },
      floor: () => {
        floor.continueShut();
        return timed(pages, () => floor.continueAll(BATCH));
      },
    };
    const { pagefault, floor: inC } = await interleave(sides, context);
    floor.continueClose(memory);
    await first.close();
    hot.close();
    return { ...ratio(pagefault, inC), unit: 'x', pagefault: pagefault.ns, floor: inC.ns };
  },
};
