/** Thrown where the process lacks a privilege. Any thread. */

import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

/** The kernel refuses for want of a privilege; the message names the capability, device or setting that grants it. */
export class PermissionError extends PagefaultError {
  declare readonly code: 'ERR_PAGEFAULT_PERMISSION';

  constructor(message: string, details?: PagefaultErrorDetails) {
    super('ERR_PAGEFAULT_PERMISSION', message, details);
  }
}
