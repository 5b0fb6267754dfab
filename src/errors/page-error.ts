/** Thrown where a page could not be had. Any thread. */

import type { PageErrorCode } from './codes.js';
import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

/**
 * A page could not be had: thrown by `read`, `load`, `pin` and `attempt`, and carried by the event 'pageerror'.
 *
 * `code` says what went wrong, `offset` and `page` where, `cause` is the error that the store threw or the errno of a
 * file. Other pages stay usable, and a later `load` of the range heals the page.
 */
export class PageError extends PagefaultError {
  declare readonly code: PageErrorCode;

  constructor(code: PageErrorCode, message: string, details?: PagefaultErrorDetails) {
    super(code, message, details);
  }
}
