// A store in JavaScript that answers at once, the whole process on one CPU.
import { measureStore } from '../lib/store-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'store-sync-same-cpu',
  title: 'synchronous JavaScript store on one CPU, against a C handler thread on that CPU',
  target: { atMost: 1.6 },
  run: async (context) => ({ ...(await measureStore(context, { answer: 'sync', sameCpu: true })), unit: 'x' }),
};
