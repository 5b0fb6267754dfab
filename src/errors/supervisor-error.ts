/** Thrown where the process that keeps guests over the death of their daemon cannot be had, or refuses. Any thread. */

import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

/** The supervisor cannot be started or reached, is somebody else's, or refuses what it is asked. */
export class SupervisorError extends PagefaultError {
  declare readonly code: 'ERR_PAGEFAULT_SUPERVISOR';

  constructor(message: string, details?: PagefaultErrorDetails) {
    super('ERR_PAGEFAULT_SUPERVISOR', message, details);
  }
}
