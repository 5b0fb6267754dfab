// Eight Workers on two CPUs fault on eight parts of one shared segment.
import { measureScale } from '../lib/scale-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'eight-workers',
  title: 'speed-up of eight faulting Workers on two CPUs, against the speed-up of eight C threads',
  target: { atLeast: 0.8 },
  run: (context) => measureScale(context, 8),
};
