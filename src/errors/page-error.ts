/** Thrown where a page could not be had, or not be written out. Any thread. */

import type { PageErrorCode } from './codes.js';
import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

/**
 * A page could not be had: thrown by `read`, `write`, `load`, `pin` and `attempt`, and carried by the event 'pageerror'.
 * Or the store did not take what was written (`ERR_PAGEFAULT_STORE_WRITE`, `ERR_PAGEFAULT_STORE_SYNC`): thrown by `flush`
 * and `close`; everything is still modified, and both may be called again.
 *
 * `code` says what went wrong, `offset` and `page` where, `cause` is the error that the store threw or the errno of a
 * file. Other pages stay usable, and a later `load` of the range heals a page that could not be had.
 */
export class PageError extends PagefaultError {
  declare readonly code: PageErrorCode;

  constructor(code: PageErrorCode, message: string, details?: PagefaultErrorDetails) {
    super(code, message, details);
  }
}
