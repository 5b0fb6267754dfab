// Backend thread: a fault that a service thread answers, in C, from memory, each thread where the kernel puts it.
import { measureStore } from '../lib/store-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'thread-unpinned',
  title: 'backend thread where the kernel puts it, against a C handler thread',
  target: { atMost: 1.3 },
  run: async (context) => ({ ...(await measureStore(context, { sameCpu: false })), unit: 'x' }),
};
