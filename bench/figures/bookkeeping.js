// What a touched page costs beside its own memory and its entry in the kernel's page tables, when all pages of a segment are touched: the
// growth of the process while they are, less the pages themselves, less the growth of page tables that the floor in C has for as many. In
// order, with and without a budget (that holds them all): the larger counts. Touched at random, a page in a budget costs a word of the queue
// more, because it has no neighbour there; that is reported beside it. A few pages are touched before, so that what is
// there once per segment or process does not count.
import { openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { floor } from '../floor/index.js';
import { median } from '../lib/measure.js';
import { memory, residentWithin } from '../lib/memory.js';
import { PAGE, sequential, shuffled, touch } from '../lib/touch.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'bookkeeping',
  title: 'bytes of bookkeeping per page when every page is touched in order',
  target: { atMost: 4 },
  async run({ map, stores, quick }) {
    const pages = quick ? 65_536 : 262_144;
    const byteLength = pages * PAGE;
    const few = sequential(64);

    /**
     * Growth of page tables and of all other memory but the region's own.
     * @param {Uint8Array} view
     * @param {Uint32Array} order
     * @param {() => number} resident
     */
    const growth = (view, order, resident) => {
      touch(view, few, PAGE);
      const before = { ...memory(), own: resident() };
      touch(view, order, PAGE);
      const after = { ...memory(), own: resident() };
      const other = after.resident - after.own - (before.resident - before.own);
      return { other, pageTables: after.pageTables - before.pageTables };
    };

    const zero = openSync('/dev/zero', 'r');
    /** @type {Record<string, number[]>} */
    const perPage = {};
    const orders = { sequential: sequential(pages), random: shuffled(pages) };
    for (let round = 0; round < 4; round++) {
      for (const [name, order] of Object.entries(orders)) {
        const buffer = floor.sigbusOpen(byteLength, zero, 1, 0);
        const { pageTables } = growth(new Uint8Array(buffer), order, () => 0);
        floor.sigbusClose(buffer);
        for (const [kind, options] of Object.entries({ 'no budget': {}, budget: { resident: byteLength } })) {
          const segment = await map(stores.zero(byteLength), { backend: 'signal', ...options });
          const grown = growth(segment.view(Uint8Array), order, () => residentWithin(segment.address, byteLength));
          await segment.close();
          await sleep(20); // some of it is given back later
          const each = (grown.other + grown.pageTables - pageTables) / pages;
          if (round > 0) perPage[`${name}, ${kind}`] = [...(perPage[`${name}, ${kind}`] ?? []), each];
        }
      }
    }
    const medians = Object.entries(perPage).map(([name, samples]) => /** @type {const} */ ([name, median(samples)]));
    return {
      value: Math.max(...medians.filter(([name]) => name.startsWith('sequential')).map(([, bytes]) => bytes)),
      unit: 'bytes',
      per: 'bytes per page',
      others: Object.fromEntries(medians),
    };
  },
};
