// Service time of a fault in `pagefault paging`, from readable to UFFDIO_COPY returned: what one in a thousand exceeds.
import { pagingFigure } from '../lib/paging-figure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'paging-service-p999',
  title: 'service time of a fault in `pagefault paging`, 99.9th percentile, against the same in C',
  target: { atMost: 3 },
  run: async (context) => pagingFigure(context, { field: 'p999', per: 'ns/fault' }),
};
