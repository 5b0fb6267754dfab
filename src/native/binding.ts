/**
 * The contract between TypeScript and the C core: every function that `native/binding.c` exports, with its units.
 * Nothing here holds policy. Segments, budgets and pagers are named by plain numbers ("ids": slot and generation in one
 * integer below 2^53), so that they can be passed between threads; a stale id makes any call throw
 * `ERR_PAGEFAULT_CLOSED`.
 *
 * The C side throws plain `Error`s that carry `code` and, where there is one, `errno` (positive) and `syscall`.
 * `src/errors/from-native.ts` turns them into the public classes.
 */
import type { NativeKernel } from './kernel.js';

/** How pages get in. `memfd`, `thread` and `kernel` are reserved for later backends. */
export type NativeBackend = 'signal' | 'mprotect';

/** Where the pages of a region come from. */
export type NativeSource =
  /** `fd` stays the caller's: the region has a descriptor of its own for the same file. */
  | { kind: 'file'; fd: number; offset: number; path: string; checkChanges: boolean }
  /** Bytes over a SharedArrayBuffer are used in place and kept alive; others are copied. */
  | { kind: 'memory'; bytes: Uint8Array }
  | { kind: 'zero' }
  /** `store` is the number that the pager's `dispatch` gets back. */
  | { kind: 'pager'; pager: number; store: number };

export interface NativeRegionOptions {
  /** Bytes the user sees. Need not be a multiple of the page size. */
  byteLength: number;
  /** Power of two, from the system's page size to 2 MiB. */
  pageSize: number;
  backend: NativeBackend;
  source: NativeSource;
  /** Bytes of `byteLength` that the source has; the rest reads zero and is never asked for. */
  storeLength: number;
  /** Bytes read ahead with each miss, 0 for none, -1 for adaptive. */
  readahead: number;
  /** Id from `budgetCreate`, or 0 for no limit. */
  budget: number;
  faultTimeoutMs: number;
  /** What a raw touch of a page that cannot be had does. */
  unreadable: 'abort' | 'zero';
  /** For reports and /proc/self/maps. */
  name: string;
  /** For reports: e.g. `file(/data/vectors.f32)`. */
  storeName: string;
  /** Page this memory instead of reserving some: a view of a SharedArrayBuffer that outlives the region. Page aligned. */
  into?: Uint8Array;
}

export interface NativeFailure {
  /** Region id, or 0 where the failure is not of one region. */
  region: number;
  /** Byte offset of the page in the region. */
  offset: number;
  /** `ERR_PAGEFAULT_…` of the reason. */
  code: string;
  errno: number;
  /** A sentence. */
  message: string;
  /** JSON `{ name, message, code?, stack? }` of the error a JavaScript store threw, or ''. */
  cause: string;
}

/** Order of the numbers that `regionStats` writes. All are counts or bytes since the region was created. */
export const STAT = [
  'faults', // faults that reached the handler for this region
  'loads', // pages that became present by a store read or by zero filling
  'storeReads', // reads asked of the store (one may bring several pages of a C store)
  'bytesRead', // bytes the store delivered
  'readaheadPages', // pages loaded before they were touched
  'readaheadHits', // of these: pages that the reader demonstrably ran through (its next miss lay right behind them)
  'evictions', // pages dropped or staged to keep within the budget
  'steals', // staged pages taken back without a store read
  'waits', // times a thread waited for a load or eviction of another one
  'retries', // store reads repeated after an error
  'failures', // page loads that were given up
  'failedPages', // pages in state FAILED now
  'residentBytes', // bytes of pages present now
  'stagedBytes', // bytes of pages staged for eviction now
  'pinnedPages', // pages pinned now
  'budgetBytes', // bytes charged to the budget now (all its segments); 0 without one
  'budgetLimit', // the budget's limit in bytes; 0 without one
  'mappingCollapses', // times pages were closed because the kernel's limit on mappings was reached (mprotect)
  'forwardedSignals', // process-wide: signals handed on to the handler that was there before
  'handlerReinstalls', // process-wide: times our signal handler was put back
] as const;
export type StatName = (typeof STAT)[number];
/** Histogram buckets that follow the numbers above: bucket i counts faults of 2^i to 2^(i+1) ns. */
export const HISTOGRAM_BUCKETS = 40;

/** Low three bits of a byte that `regionStates` writes. */
export const PAGE_STATE = {
  absent: 0,
  loading: 1,
  present: 2,
  evicting: 3,
  staged: 4,
  failed: 5,
  installing: 6,
} as const;
/** Set beside the state of a pinned page. */
export const PAGE_PINNED = 0x80;

export interface NativeProbe {
  pageSize: number;
  /** `uname -r`. */
  kernel: string;
  arch: string;
  /** 0 when userfaultfd(2) in user-mode-only mode works, else the errno that refused it. */
  userfaultfdErrno: number;
  /** 0 when userfaultfd(2) works for kernel-mode faults too, else the errno. */
  kernelFaultsErrno: number;
  /** 0 when /dev/userfaultfd can be opened, else the errno. */
  deviceErrno: number;
  /** Feature bits of UFFDIO_API, 0 where refused. */
  features: bigint;
  /** vm.max_map_count, 0 if unreadable. */
  maxMapCount: number;
  /** 0 none, 1 strict, 2 filter: field Seccomp of /proc/self/status. */
  seccomp: number;
  /** process_madvise(2) works on this process: pages are dropped in vectored batches. */
  vectoredMadvise: boolean;
  /** The runtime has node_api_create_external_sharedarraybuffer. */
  externalSharedArrayBuffer: boolean;
  /** 0 when mprotect on a twice-mapped memfd works, else errno of what failed. */
  mprotectErrno: number;
}

export interface NativeBinding extends NativeKernel {
  probe(): NativeProbe;
  systemPageSize(): number;

  /** `limit` in bytes. Throws ERR_PAGEFAULT_SYSTEM. */
  budgetCreate(limit: number): number;
  /** Lives on until its last region is closed. */
  budgetRelease(budget: number): void;
  /** Writes used, limit, resident, staged, pinned (bytes). */
  budgetStats(budget: number, out: Float64Array): void;

  regionCreate(options: NativeRegionOptions): { id: number; address: bigint };
  /** The memory as a new external ArrayBuffer of `byteLength`; collected unclosed, it closes the region. */
  regionArrayBuffer(id: number): ArrayBuffer;
  /** The same as a SharedArrayBuffer, or undefined where the runtime cannot (then `into` is the way). */
  regionSharedArrayBuffer(id: number): SharedArrayBuffer | undefined;
  /** One more holder (`open` in another thread); undone by `regionClose`. Throws ERR_PAGEFAULT_STALE_HANDLE if it is gone or closed. */
  regionAcquire(id: number): void;
  /**
   * Drops one holder. With the last one (or `force`): touches fail, waits end, pages are dropped. A plain `buffer` given is detached and
   * the memory unmapped, as it is when none was ever made; shared memory stays registered, and a touch of it fails with "segment closed". Returns true when the region ended.
   */
  regionClose(id: number, buffer: ArrayBuffer | undefined, force: boolean): boolean;
  /** True while the region is open. Never throws. */
  regionIsOpen(id: number): boolean;

  /** Copies out of the region, loading what is missing on this thread. Throws a NativeFailure-carrying error (property `failure`). */
  regionRead(id: number, offset: number, into: Uint8Array): void;
  /**
   * Loads (and with `pin` pins) a range on a thread of our own. `done(failure | null)` runs on this thread's loop; `progress(bytesDone)` too,
   * merged, if given. Returns a job number for `jobCancel`. An open job keeps the loop alive.
   */
  regionLoad(
    id: number,
    offset: number,
    byteLength: number,
    pin: boolean,
    done: (failure: NativeFailure | null) => void,
    progress: ((bytes: number) => void) | undefined,
  ): number;
  /** Ends the job soon with code ERR_PAGEFAULT_ABORTED; harmless when it is over. */
  jobCancel(job: number): void;
  regionUnpin(id: number, offset: number, byteLength: number): void;
  /** Whole pages inside the range, clean and unpinned. Returns the bytes freed. */
  regionRelease(id: number, offset: number, byteLength: number): number;
  /** Whole pages inside the range are read again on the next touch. Pinned ones when they are unpinned. A file source takes the file as it is now. */
  regionInvalidate(id: number, offset: number, byteLength: number): void;
  /** Writes STAT in order, then the histogram. */
  regionStats(id: number, out: Float64Array): void;
  /** One byte a page from `firstPage`. */
  regionStates(id: number, firstPage: number, out: Uint8Array): void;
  /** What is known of why the page failed. */
  regionFailure(id: number, offset: number): NativeFailure | null;
  /** Failures since the last call, oldest first, at most 64 (for the 'pageerror' event). */
  regionTakeFailures(id: number): NativeFailure[];

  /** From here to `attemptEnd` a raw touch on this thread of a page that cannot be had is recorded instead of ending the process. Nests. */
  attemptBegin(): void;
  /** The first failure since the matching `attemptBegin`, or null. */
  attemptEnd(): NativeFailure | null;

  /**
   * Makes this thread (a Worker) a pager. `dispatch(slot, store, offset, length, access, timeoutMs)` is called for each page wanted:
   * access 0 read, 1 write, 2 ahead. It returns the bytes put into `pagerBuffer(slot)`, -1 for "as it is (zero)",
   * or -2 when `pagerComplete` or `pagerFail` will follow. It must not throw. The pager does not keep the loop alive.
   */
  pagerOpen(
    dispatch: (
      slot: number,
      store: number,
      offset: number,
      length: number,
      access: number,
      timeoutMs: number,
    ) => number,
  ): number;
  /** The memory of a slot, at least `length` bytes; the same object until the slot is retired. */
  pagerBuffer(pager: number, slot: number, length: number): ArrayBuffer;
  /** Answers a slot: bytes filled (the rest of the page is zeroed), or -1. Returns 1 when the page was invalidated meanwhile and must be read again. */
  pagerComplete(pager: number, slot: number, bytes: number): number;
  /** Fails a slot. `cause` is JSON, at most 3 KiB are kept. `retired`: the store may still write into the buffer, so it is not used again. */
  pagerFail(pager: number, slot: number, code: string, message: string, cause: string, retired: boolean): void;
  /** Counts a repeated read in the region's statistics. */
  pagerRetry(pager: number, slot: number): void;
  /** Fails all that waits with ERR_PAGEFAULT_STORE_GONE. Also done when the thread's environment ends. */
  pagerClose(pager: number, reason: string): void;
  /** Usable from any thread: marks the pager dead with a reason, if it is not yet. */
  pagerKill(pager: number, reason: string): void;

  /** The process has begun to exit with this code: unserved waiters end it after a grace. */
  exiting(code: number): void;
  /** Looks whether our signal handlers are still installed and puts them back. Returns how often that has happened so far. */
  checkHandlers(): number;
  /** Bytes of memory that the core itself holds beside pages (state tables, queues, scratch buffers), for tests and `stats`. */
  overheadBytes(): number;
  /** Open regions, scratch buffers, file descriptors and loader threads of the core: for leak tests. */
  census(): { regions: number; buffers: number; descriptors: number; threads: number };
}
