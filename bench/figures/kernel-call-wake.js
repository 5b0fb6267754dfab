// UFFDIO_WAKE of one page through the binding: what it costs over the bare ioctl.
import { floor } from '../floor/index.js';
import { measureCall } from '../lib/kernel-call.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'kernel-call-wake',
  title: 'uffd.wake() of one page: time over the bare UFFDIO_WAKE in C',
  target: { atMost: 300 },
  run: (context) =>
    measureCall(context, {
      fills: false,
      run: (uffd, pages) => {
        for (const page of pages) uffd.wake(page);
      },
      floor: floor.callsWake,
    }),
};
