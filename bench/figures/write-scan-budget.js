// A scan that writes: each 8-byte word of a file of 8 × the budget is incremented, by the same loop in C on all sides. Against a buffer of the budget's
// size that is read, modified and written. The last of it, a budget's worth, is written when the clock has stopped, on each side.
// Default options but for the budget; page size and read-ahead are the defaults, too. Beside it the same with pages of 64 KiB, and a pager
// in C with the same budget, which shows what any paging costs where a buffer would do.
import { fdatasyncSync, readSync } from 'node:fs';
import { floor } from '../floor/index.js';
import { interleave, ratio, timed } from '../lib/measure.js';
import { PAGE } from '../lib/touch.js';
import { ownFile } from '../lib/writes.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'write-scan-budget',
  title: 'speed of a writing scan of 8 × the budget, default page size, against pread + modify + pwrite',
  target: { atLeast: 0.75 },
  async run(context) {
    const { map, stores, pages } = context;
    const file = ownFile(context, { pages });
    const capacity = pages / 8;
    const page = new BigUint64Array(PAGE / 8);
    let passes = 0n;
    /** @param {string} who */
    const verifyPass = (who) => {
      passes++;
      for (let at = 0; at < file.byteLength; at += PAGE) {
        readSync(file.fd, page, 0, PAGE, at);
        if (page[0] !== passes || page.at(-1) !== passes) throw new Error(`${who} wrote the page at ${at} wrongly.`);
      }
    };
    /**
     * @param {import('pagefault').MapOptions} options
     * @returns {import('../lib/measure.js').Side}
     */
    const ours = (options) => async () => {
      const segment = await map(stores.file(file.path), { resident: capacity * PAGE, writable: true, ...options });
      const { buffer } = segment;
      const sample = timed(pages, () => floor.increment(buffer));
      await segment.close();
      verifyPass('pagefault');
      return sample;
    };
    const sides = {
      pagefault: ours({}),
      buffer: () => {
        floor.rewriteOpen(file.fd, file.byteLength, capacity * PAGE);
        const sample = timed(pages, floor.rewriteScan);
        floor.rewriteClose();
        verifyPass('The floor');
        return sample;
      },
      large: ours({ pageSize: 65_536 }),
      pager: () => {
        const buffer = floor.sigbusOpen(file.byteLength, file.fd, 64, capacity, true);
        const sample = timed(pages, () => floor.increment(buffer));
        const undisturbed = floor.sigbusClose(buffer);
        fdatasyncSync(file.fd);
        verifyPass('The pager in C');
        return undisturbed ? sample : { ...sample, busy: 0 };
      },
    };
    const { pagefault, buffer, large, pager } = await interleave(sides, context);
    return {
      ...ratio(buffer, pagefault),
      unit: 'x',
      pagefault: pagefault.ns,
      floor: buffer.ns,
      others: { '64 KiB pages': large.ns, 'C pager with the budget': pager.ns },
      note: 'default options: pages of 4 KiB, automatic read-ahead',
    };
  },
};
