/** Thrown where a file descriptor is not what a call needs. Any thread. */

import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

/** A descriptor of the wrong kind, or descriptors that were lost on their way through a socket. */
export class DescriptorError extends PagefaultError {
  declare readonly code: 'ERR_PAGEFAULT_WRONG_DESCRIPTOR' | 'ERR_PAGEFAULT_TRUNCATED';

  constructor(
    code: 'ERR_PAGEFAULT_WRONG_DESCRIPTOR' | 'ERR_PAGEFAULT_TRUNCATED',
    message: string,
    details?: PagefaultErrorDetails,
  ) {
    super(code, message, details);
  }
}
