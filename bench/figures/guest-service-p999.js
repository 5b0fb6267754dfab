// A guest's touch of a missing page, 99.9th percentile, while the daemon's JavaScript makes garbage.
import { guestService } from '../lib/guest-service.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'guest-service-p999',
  title: 'a touch of a missing page by a guest, 99.9th percentile, against a handler in C',
  target: { atMost: 3 },
  run: async (context) => guestService(context, 'p999'),
};
