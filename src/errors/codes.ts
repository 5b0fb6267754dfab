/** The codes that errors of this library carry. Plain data, used on every thread. */

/** Why a page could not be had. */
export type PageErrorCode =
  /** The store reported an error: an errno of a file, or what a JavaScript store threw. */
  | 'ERR_PAGEFAULT_STORE'
  /** The store delivered fewer bytes than the page has. */
  | 'ERR_PAGEFAULT_SHORT_READ'
  /** The store delivered more bytes than the page has. */
  | 'ERR_PAGEFAULT_LONG_READ'
  /** The file was truncated or replaced, or a store changed its length, while it was mapped. */
  | 'ERR_PAGEFAULT_STORE_CHANGED'
  /** The store did not answer before `faultTimeoutMs` was over. */
  | 'ERR_PAGEFAULT_TIMEOUT'
  /** The Worker that ran the store has ended. */
  | 'ERR_PAGEFAULT_STORE_GONE'
  /** A store touched memory that its own Worker serves. */
  | 'ERR_PAGEFAULT_DEADLOCK'
  /** No memory for the page. */
  | 'ERR_PAGEFAULT_NO_MEMORY'
  /** All of the budget is pinned. */
  | 'ERR_PAGEFAULT_BUDGET'
  /** A system call on the fault path failed. */
  | 'ERR_PAGEFAULT_SYSTEM';

/** Every code of a {@link PagefaultError}. */
export type PagefaultErrorCode =
  | PageErrorCode
  /** The segment is closed. */
  | 'ERR_PAGEFAULT_CLOSED'
  /** The handle names a segment that is closed. */
  | 'ERR_PAGEFAULT_STALE_HANDLE'
  /** The operation was cancelled. */
  | 'ERR_PAGEFAULT_ABORTED'
  /** This platform, runtime or kernel cannot do it. */
  | 'ERR_PAGEFAULT_UNSUPPORTED'
  /** The store cannot be opened: no such file, a directory, no permission, what a store module threw. */
  | 'ERR_PAGEFAULT_STORE_OPEN'
  /** The store has no bytes. */
  | 'ERR_PAGEFAULT_STORE_EMPTY'
  /** The store module is missing, cannot be imported, or does not export what a store module must. */
  | 'ERR_PAGEFAULT_STORE_MODULE'
  /** What the store module returned is not a page store. */
  | 'ERR_PAGEFAULT_STORE_INVALID'
  /** The store's `close` failed. */
  | 'ERR_PAGEFAULT_STORE_CLOSE';

/** Codes of the TypeErrors and RangeErrors that wrong arguments give. */
export type ArgumentErrorCode =
  | 'ERR_PAGEFAULT_INVALID_ARGUMENT'
  | 'ERR_PAGEFAULT_UNKNOWN_OPTION'
  | 'ERR_PAGEFAULT_NOT_YET'
  | 'ERR_PAGEFAULT_OUT_OF_RANGE';
