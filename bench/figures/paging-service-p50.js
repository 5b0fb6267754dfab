// Service time of a fault in `pagefault paging`, from readable to UFFDIO_COPY returned: the median of a run.
import { pagingFigure } from '../lib/paging-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'paging-service-p50',
  title: 'service time of a fault in `pagefault paging`, median, against the same in C',
  target: { atMost: 1.5 },
  run: async (context) => pagingFigure(context, { field: 'p50', per: 'ns/fault' }),
};
