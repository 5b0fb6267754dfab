// flush() of a segment that is dirty from its first page to its last.
import { measureFlush } from '../lib/flush-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'flush-contiguous',
  title: 'speed of flush() of 256 MiB, against pwrite + fdatasync',
  target: { atLeast: 0.8 },
  run: (context) => measureFlush(context, 1),
};
