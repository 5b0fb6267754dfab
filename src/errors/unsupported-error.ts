/** Thrown by any use where the platform, the runtime or the kernel cannot page. Any thread. */

import { PagefaultError } from './pagefault-error.js';

/** Says what is missing here and, where one is known, what helps. `isSupported()` tells beforehand. */
export class UnsupportedError extends PagefaultError {
  /** Names of the features and calls that were asked for and are not there. */
  declare readonly missing?: readonly string[];

  constructor(message: string, cause?: unknown, missing?: readonly string[]) {
    super('ERR_PAGEFAULT_UNSUPPORTED', message, { cause });
    if (missing !== undefined) this.missing = missing;
  }
}
