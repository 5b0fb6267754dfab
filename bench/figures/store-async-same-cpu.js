// A store in JavaScript that answers with a promise, the whole process on one CPU.
import { measureStore } from '../lib/store-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'store-async-same-cpu',
  title: 'asynchronous JavaScript store on one CPU, against a C handler thread on that CPU',
  target: { atMost: 2.2 },
  run: async (context) => ({ ...(await measureStore(context, { answer: 'async', sameCpu: true })), unit: 'x' }),
};
