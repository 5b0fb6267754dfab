// Backend thread: a fault that a service thread answers, in C, from memory, the whole process on one CPU.
import { measureStore } from '../lib/store-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'thread-same-cpu',
  title: 'backend thread on one CPU, against a C handler thread',
  target: { atMost: 1.3 },
  run: async (context) => ({ ...(await measureStore(context, { sameCpu: true })), unit: 'x' }),
};
