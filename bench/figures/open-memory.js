// How much memory an open, untouched segment of 64 GiB (4 GiB on Node 20) takes: resident memory and page tables.
import { median } from '../lib/measure.js';
import { LENGTH, openingMemory, quartiles } from '../lib/open-figure.js';

/** @param {number} bytes */
const kibibytes = (bytes) => bytes / 1024;

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'open-memory',
  title: 'memory of an open segment of 64 GiB (4 GiB on Node 20), page tables included',
  target: { atMost: 256 },
  async run(context) {
    const { plain, shared, floor } = await openingMemory(context);
    const pagefault = plain.map(kibibytes);
    return {
      value: median(pagefault),
      unit: 'KiB',
      spread: quartiles(pagefault),
      pagefault: median(pagefault),
      floor: kibibytes(median(floor)),
      per: 'KiB',
      others: { 'shared: true': kibibytes(median(shared)) },
      note: `a segment of ${LENGTH}, eight of them open`,
    };
  },
};
