// Touches with zipf 0.99 over 8 × the budget, and a store that takes 1 ms: how many reads the policy saves against FIFO, which is
// simulated exactly on the same trace. Counts, not times: one run, and the machine's load does not matter.
import { PAGE, touch, verify } from '../lib/touch.js';
import { simulate, zipf } from '../lib/zipf.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'zipf-slow-store',
  title: 'store reads for zipf 0.99 over 8 × the budget with a store of 1 ms, against FIFO',
  target: { atMost: 0.97 },
  async run({ map, stores, quick }) {
    const capacity = quick ? 128 : 512;
    const pages = 8 * capacity;
    const trace = zipf({ pages, touches: quick ? 4_000 : 40_000, skew: 0.99, seed: 42 });
    const fifo = simulate(trace, capacity, { recency: false });
    const lru = simulate(trace, capacity, { recency: true });
    const byteLength = pages * PAGE;
    const store = stores.custom(new URL('../stores/fill.js', import.meta.url), {
      byteLength,
      pageSize: PAGE,
      answer: 'late',
      delayMs: 1,
    });
    const segment = await map(store, { backend: 'signal', readahead: 0, resident: capacity * PAGE });
    try {
      const begin = performance.now();
      const sum = touch(segment.view(Uint8Array), trace, PAGE);
      const milliseconds = performance.now() - begin;
      verify('pagefault', sum, trace.reduce((total, page) => total + (page & 255), 0) >>> 0);
      const { storeReads, steals } = segment.stats();
      return {
        value: storeReads / fifo,
        unit: 'x',
        pagefault: storeReads,
        floor: fifo,
        per: 'store reads',
        others: { LRU: lru, steals, 'ms per read': milliseconds / storeReads },
      };
    } finally {
      await segment.close();
    }
  },
};
