/** Thrown by every operation on a closed segment. Any thread. */

import { PagefaultError } from './pagefault-error.js';

/** The segment is closed, or was closed while the operation ran. */
export class ClosedError extends PagefaultError {
  constructor(segment: string) {
    super('ERR_PAGEFAULT_CLOSED', `segment "${segment}" is closed`, { segment });
  }
}
