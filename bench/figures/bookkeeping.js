// What a touched page costs beside its own memory and its entry in the kernel's page tables, when all pages of a segment are touched: the
// growth of the process while they are, less the pages themselves, less the growth of page tables that the floor in C has for as many. With
// and without a budget (that holds them all); the larger counts. The first pages are touched before, so that what is there once per
// segment or process does not count.
import { openSync } from 'node:fs';
import { floor } from '../floor/index.js';
import { median } from '../lib/measure.js';
import { memory, residentWithin } from '../lib/memory.js';
import { PAGE, sequential, touch } from '../lib/touch.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'bookkeeping',
  title: 'bytes of bookkeeping per page when every page is touched',
  target: { atMost: 4 },
  async run({ map, stores, quick }) {
    const pages = quick ? 65_536 : 262_144;
    const order = sequential(pages);
    const first = order.subarray(0, pages / 64);
    const rest = order.subarray(pages / 64);
    const byteLength = pages * PAGE;

    /**
     * Growth of page tables and of all other memory but the region's own.
     * @param {Uint8Array} view
     * @param {() => number} resident
     */
    const growth = (view, resident) => {
      touch(view, first, PAGE);
      const before = { ...memory(), own: resident() };
      touch(view, rest, PAGE);
      const after = { ...memory(), own: resident() };
      const other = after.resident - after.own - (before.resident - before.own);
      return { other, pageTables: after.pageTables - before.pageTables };
    };

    const zero = openSync('/dev/zero', 'r');
    /** @type {{ free: number[], bounded: number[] }} */
    const perPage = { free: [], bounded: [] };
    for (let round = 0; round < 4; round++) {
      const buffer = floor.sigbusOpen(byteLength, zero, 64, 0);
      const { pageTables } = growth(new Uint8Array(buffer), () => 0);
      floor.sigbusClose(buffer);
      for (const [kind, options] of /** @type {const} */ ([
        ['free', {}],
        ['bounded', { resident: byteLength }],
      ])) {
        const segment = await map(stores.zero(byteLength), { backend: 'signal', ...options });
        const grown = growth(segment.view(Uint8Array), () => residentWithin(segment.address, byteLength));
        await segment.close();
        if (round > 0) perPage[kind].push((grown.other + grown.pageTables - pageTables) / rest.length);
      }
    }
    const free = median(perPage.free);
    const bounded = median(perPage.bounded);
    return {
      value: Math.max(free, bounded),
      unit: 'bytes',
      per: 'bytes per page',
      others: { 'without a budget': free, 'with a budget': bounded },
    };
  },
};
