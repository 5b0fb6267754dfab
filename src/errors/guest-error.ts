/** Thrown where a child process cannot be paged (any more). Any thread. */

import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

type GuestErrorCode = 'ERR_PAGEFAULT_GUEST_HANDSHAKE' | 'ERR_PAGEFAULT_GUEST_GONE' | 'ERR_PAGEFAULT_TIMEOUT';

/** The child, or its pager, did not do its part: no handshake, a wrong one, or an end too early. */
export class GuestError extends PagefaultError {
  declare readonly code: GuestErrorCode;
  /** Process id of the child, where there is one. */
  declare readonly pid?: number;

  constructor(
    code: GuestErrorCode,
    message: string,
    details: PagefaultErrorDetails & { pid?: number | undefined } = {},
  ) {
    super(code, message, details);
    if (details.pid !== undefined) this.pid = details.pid;
  }
}
