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
  | 'ERR_PAGEFAULT_SYSTEM'
  /** The store could not write the page; it is still modified. */
  | 'ERR_PAGEFAULT_STORE_WRITE'
  /** The store could not make durable what was written; it all is still modified. */
  | 'ERR_PAGEFAULT_STORE_SYNC';

/** Why a source of pages for other processes cannot give one. */
export type PageSourceErrorCode =
  /** It has fewer bytes than the page: `got` of `expected`. */
  | 'ERR_PAGEFAULT_SHORT'
  /** It cannot be opened: `path`. */
  | 'ERR_PAGEFAULT_OPEN'
  /** What a page server sent is not what it was asked for. */
  | 'ERR_PAGEFAULT_PROTOCOL'
  /** Reading failed: `cause`. */
  | 'ERR_PAGEFAULT_IO'
  /** The thread that would run it cannot be started. */
  | 'ERR_PAGEFAULT_SPAWN'
  /** It did not answer within `faultTimeoutMs`: `cause` is what the last try said. */
  | 'ERR_PAGEFAULT_TIMEOUT';

/** Every code of a {@link PagefaultError}. */
export type PagefaultErrorCode =
  | PageErrorCode
  /** The segment is closed. */
  | 'ERR_PAGEFAULT_CLOSED'
  /** The handle names a segment that is closed. */
  | 'ERR_PAGEFAULT_STALE_HANDLE'
  /** The memory is paged by another segment that is open; `segment` names the one that was to be mapped. */
  | 'ERR_PAGEFAULT_SEGMENT_OVERLAP'
  /** Pages in the range are modified: flush or discard them first. */
  | 'ERR_PAGEFAULT_DIRTY'
  /** Pages in the range are pinned. */
  | 'ERR_PAGEFAULT_PINNED'
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
  /** The store cannot write, so it cannot be mapped with `writable: true`. */
  | 'ERR_PAGEFAULT_STORE_READ_ONLY'
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
  | 'ERR_PAGEFAULT_GUEST_GONE'
  /** The supervisor of a daemon's guests cannot be had, or refuses. */
  | 'ERR_PAGEFAULT_SUPERVISOR'
  /** A file is not a working set, or one of a version that this release does not know; or it is missing or cannot be read or written. */
  | 'ERR_PAGEFAULT_WORKING_SET'
  /** A working set is cut off, was changed, or has pages that its snapshot does not have. */
  | 'ERR_PAGEFAULT_WORKING_SET_DAMAGED'
  /** A working set was recorded of another snapshot. */
  | 'ERR_PAGEFAULT_WORKING_SET_FOREIGN'
  /** An address lies in none of the regions that a `Pager` was given. */
  | 'ERR_PAGEFAULT_OUT_OF_REGION'
  | PageSourceErrorCode;

/** Codes of the TypeErrors and RangeErrors that wrong arguments give. */
export type ArgumentErrorCode =
  | 'ERR_PAGEFAULT_INVALID_ARGUMENT'
  | 'ERR_PAGEFAULT_UNKNOWN_OPTION'
  /** The segment was not mapped with `writable: true`. */
  | 'ERR_PAGEFAULT_READ_ONLY'
  | 'ERR_PAGEFAULT_NOT_YET'
  | 'ERR_PAGEFAULT_OUT_OF_RANGE'
  /** A range begins at address 0, or its buffer is detached and has no memory. */
  | 'ERR_PAGEFAULT_NULL_BASE'
  /** A range or a buffer is empty. */
  | 'ERR_PAGEFAULT_ZERO_SIZE'
  /** A range does not begin at a page, or its buffer does not, and therefore holds too few whole pages. */
  | 'ERR_PAGEFAULT_BASE_NOT_ALIGNED'
  /** A range does not end at a page, or its buffer does not, and therefore cannot hold the last page. */
  | 'ERR_PAGEFAULT_SIZE_NOT_ALIGNED'
  /** Pages of this size are not to be had: here, or in this memory. */
  | 'ERR_PAGEFAULT_PAGE_SIZE_UNAVAILABLE'
  /** More than the memory has. */
  | 'ERR_PAGEFAULT_OUT_OF_BOUNDS';
