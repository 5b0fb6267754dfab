// A whole run of `pagefault paging`, threads where the kernel puts them, Node starting included.
import { pagingFigure } from '../lib/paging-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'paging-run',
  title: 'whole run of `pagefault paging`, unpinned, seen from outside, against the program in C',
  target: { atMost: 1.3 },
  run: async (context) => pagingFigure(context, { field: 'wallMs', per: 'ms', beside: { 'inside ms': 'elapsedMs' } }),
};
