// A guest's touch of a missing page, median, while the daemon's JavaScript makes garbage.
import { guestService } from '../lib/guest-service.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'guest-service-p50',
  title: 'a touch of a missing page by a guest, median, against a handler in C',
  target: { atMost: 1.5 },
  run: async (context) => guestService(context, 'p50'),
};
