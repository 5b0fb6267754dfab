/** Thrown by any use where the platform, the runtime or the kernel cannot page. Any thread. */

import { PagefaultError } from './pagefault-error.js';

/** Says what is missing here and, where one is known, what helps. `isSupported()` tells beforehand. */
export class UnsupportedError extends PagefaultError {
  constructor(message: string, cause?: unknown) {
    super('ERR_PAGEFAULT_UNSUPPORTED', message, { cause });
  }
}
