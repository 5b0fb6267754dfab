// flush() of a segment of which every eighth page is dirty.
import { measureFlush } from '../lib/flush-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'flush-scattered',
  title: 'speed of flush() of every eighth page of 256 MiB, against pwrite + fdatasync',
  target: { atLeast: 0.8 },
  run: (context) => measureFlush(context, 8),
};
