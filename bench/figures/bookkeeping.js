// What a touched page costs beside its own memory and its entry in the kernel's page tables, when all pages of a segment are touched: the
// growth of the process less the pages themselves, less the page tables that the floor in C needs for as many. With and without a
// budget (that holds them all); the larger counts.
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
    const byteLength = pages * PAGE;

    const zero = openSync('/dev/zero', 'r');
    const beforeFloor = memory();
    const buffer = floor.sigbusOpen(byteLength, zero, 64, 0);
    touch(new Uint8Array(buffer), order, PAGE);
    const pageTables = memory().pageTables - beforeFloor.pageTables;
    floor.sigbusClose(buffer);

    /** @param {import('pagefault').MapOptions} options */
    const perPage = async (options) => {
      const before = memory();
      const segment = await map(stores.zero(byteLength), { backend: 'signal', ...options });
      touch(segment.view(Uint8Array), order, PAGE);
      const after = memory();
      const own = residentWithin(segment.address, byteLength);
      await segment.close();
      const growth = after.resident - before.resident - own + (after.pageTables - before.pageTables - pageTables);
      return growth / pages;
    };
    const free = [];
    const bounded = [];
    for (let round = 0; round < 4; round++) {
      const first = await perPage({});
      const second = await perPage({ resident: byteLength });
      // The first round also pays for what is there once per process.
      if (round === 0) continue;
      free.push(first);
      bounded.push(second);
    }
    return {
      value: Math.max(median(free), median(bounded)),
      unit: 'bytes',
      per: 'bytes per page',
      others: { 'without a budget': median(free), 'with a budget': median(bounded) },
    };
  },
};
