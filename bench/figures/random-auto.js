// The same random touches with automatic read-ahead, which has to stay out of the way.
import { runRandom } from './random.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'random-auto',
  title: 'random 4 KiB touches, automatic read-ahead, against SIGBUS + pread + UFFDIO_COPY',
  target: { atMost: 1.2 },
  run: runRandom('auto'),
};
