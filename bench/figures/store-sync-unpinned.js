// A store in JavaScript that answers at once, threads where the kernel puts them.
import { measureUnpinned } from '../lib/store-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'store-sync-unpinned',
  title: 'time of a fault on a synchronous JavaScript store, unpinned; beside it an unpinned C handler thread',
  target: { atMost: 30 },
  run: (context) => measureUnpinned(context, 'sync'),
};
