/** Thrown where the operating system refuses something. Any thread. */

import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

/** A system call failed, or there is no memory; `errno` and `syscall` say which and how. */
export class SystemError extends PagefaultError {
  declare readonly code: 'ERR_PAGEFAULT_SYSTEM' | 'ERR_PAGEFAULT_NO_MEMORY';

  constructor(
    code: 'ERR_PAGEFAULT_SYSTEM' | 'ERR_PAGEFAULT_NO_MEMORY',
    message: string,
    details?: PagefaultErrorDetails,
  ) {
    super(code, message, details);
  }
}
