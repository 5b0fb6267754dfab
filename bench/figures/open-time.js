// How long it takes to open a segment of 64 GiB (4 GiB on Node 20).
import { median } from '../lib/measure.js';
import { LENGTH, openingTimes, quartiles } from '../lib/open-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'open-time',
  title: 'time to open a segment of 64 GiB (4 GiB on Node 20); beside it mmap + UFFDIO_REGISTER in C',
  target: { atMost: 1 },
  async run(context) {
    const { plain, shared, floor, first } = await openingTimes(context);
    return {
      value: median(plain.opening),
      unit: 'ms',
      spread: quartiles(plain.opening),
      pagefault: median(plain.opening),
      floor: median(floor.opening),
      per: 'ms',
      others: {
        'first of the process': first,
        'first use of .buffer': median(plain.firstUse),
        'of both, V8 collecting': median(plain.collecting),
        'in the floor': median(floor.collecting),
        'shared: true': median(shared.opening),
      },
      note: `a segment of ${LENGTH}`,
    };
  },
};
