/** Thrown by `open` for a handle whose segment is gone. Any thread. */

import { PagefaultError } from './pagefault-error.js';

/** Every holder of the segment has closed it, so the handle opens nothing any more. */
export class StaleHandleError extends PagefaultError {
  constructor(segment: string) {
    super('ERR_PAGEFAULT_STALE_HANDLE', `the handle of segment "${segment}" is stale: the segment has been closed`, {
      segment,
    });
  }
}
