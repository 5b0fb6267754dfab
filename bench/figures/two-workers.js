// Two Workers on two CPUs fault on two parts of one shared segment.
import { measureScale } from '../lib/scale-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'two-workers',
  title: 'speed-up of two faulting Workers on two CPUs, against the speed-up of two C threads',
  target: { atLeast: 0.8 },
  run: (context) => measureScale(context, 2),
};
