/** Thrown where the file of a working set cannot be used. Any thread. */

import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

/** The codes of a {@link WorkingSetError}. */
export type WorkingSetErrorCode =
  | 'ERR_PAGEFAULT_WORKING_SET'
  | 'ERR_PAGEFAULT_WORKING_SET_DAMAGED'
  | 'ERR_PAGEFAULT_WORKING_SET_FOREIGN';

/** A working set is missing, is something else, is damaged, or is of another snapshot. */
export class WorkingSetError extends PagefaultError {
  declare readonly code: WorkingSetErrorCode;
  /** The file. */
  declare readonly path?: string;

  constructor(
    code: WorkingSetErrorCode,
    message: string,
    details: PagefaultErrorDetails & { path?: string | undefined } = {},
  ) {
    super(code, message, details);
    if (details.path !== undefined) this.path = details.path;
  }
}
