/** Thrown by `open` for a handle whose segment is gone. Any thread. */

import { PagefaultError } from './pagefault-error.js';

/** Every holder of the segment has closed it, or it is not of this process and copy of the library, so the handle opens nothing. `why` says which. */
export class StaleHandleError extends PagefaultError {
  constructor(segment: string, why = 'the segment has been closed') {
    super('ERR_PAGEFAULT_STALE_HANDLE', `the handle of segment "${segment}" is stale: ${why}`, {
      segment,
    });
  }
}
