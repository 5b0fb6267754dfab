/** Thrown where a store cannot be opened or closed. Any thread. */

import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

/** The codes of a {@link StoreError}. */
export type StoreErrorCode =
  | 'ERR_PAGEFAULT_STORE_OPEN'
  | 'ERR_PAGEFAULT_STORE_EMPTY'
  | 'ERR_PAGEFAULT_STORE_MODULE'
  | 'ERR_PAGEFAULT_STORE_INVALID'
  | 'ERR_PAGEFAULT_STORE_READ_ONLY'
  | 'ERR_PAGEFAULT_STORE_CLOSE'
  | 'ERR_PAGEFAULT_STORE_GONE'
  | 'ERR_PAGEFAULT_SPAWN'
  | 'ERR_PAGEFAULT_TIMEOUT';

/** The store as a whole cannot be used: `map` rejects with it, and `close` where the store's own `close` failed. */
export class StoreError extends PagefaultError {
  declare readonly code: StoreErrorCode;

  constructor(code: StoreErrorCode, message: string, details?: PagefaultErrorDetails) {
    super(code, message, details);
  }
}
