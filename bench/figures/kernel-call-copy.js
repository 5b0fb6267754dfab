// UFFDIO_COPY of one page through the binding: what it costs over the bare ioctl.
import { floor } from '../floor/index.js';
import { measureCall } from '../lib/kernel-call.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'kernel-call-copy',
  title: 'uffd.copy() of one page: time over the bare UFFDIO_COPY in C',
  target: { atMost: 300 },
  run: (context) =>
    measureCall(context, {
      fills: true,
      run: (uffd, pages, source) => {
        for (const { address } of pages) uffd.copy(address, source);
      },
      floor: floor.callsCopy,
    }),
};
