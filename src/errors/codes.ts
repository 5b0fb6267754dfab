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
  | 'ERR_PAGEFAULT_STORE_CLOSE'
  /** UFFDIO_COPY stopped on its way: `copied` bytes are in place. */
  | 'ERR_PAGEFAULT_PARTIALLY_COPIED'
  /** UFFDIO_COPY, CONTINUE, MOVE or POISON did nothing: `errno` says why. */
  | 'ERR_PAGEFAULT_COPY_FAILED'
  /** UFFDIO_ZEROPAGE did nothing: `errno` says why. */
  | 'ERR_PAGEFAULT_ZEROPAGE_FAILED'
  /** The descriptor that events were read from has ended. */
  | 'ERR_PAGEFAULT_READ_EOF'
  /** Fewer bytes were read than a message has. */
  | 'ERR_PAGEFAULT_INCOMPLETE_MESSAGE'
  /** The process may not do this: the message names what would allow it. */
  | 'ERR_PAGEFAULT_PERMISSION'
  /** A descriptor is not of the kind that the call needs. */
  | 'ERR_PAGEFAULT_WRONG_DESCRIPTOR'
  /** Descriptors that were sent did not fit, and were closed. */
  | 'ERR_PAGEFAULT_TRUNCATED'
  /** What a child sent to its pager is not what was agreed, or it ended before it said anything. */
  | 'ERR_PAGEFAULT_GUEST_HANDSHAKE'
  /** A child that is paged, or its pager, is gone. */
  | 'ERR_PAGEFAULT_GUEST_GONE';

/** Codes of the TypeErrors and RangeErrors that wrong arguments give. */
export type ArgumentErrorCode =
  | 'ERR_PAGEFAULT_INVALID_ARGUMENT'
  | 'ERR_PAGEFAULT_UNKNOWN_OPTION'
  | 'ERR_PAGEFAULT_NOT_YET'
  | 'ERR_PAGEFAULT_OUT_OF_RANGE';
