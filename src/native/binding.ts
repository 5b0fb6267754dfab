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

/** How pages get in. `kernel` is reserved for a later backend. */
export type NativeBackend = 'signal' | 'mprotect' | 'memfd' | 'thread';

/** Shared memory of the core, held by this thread: an external, let go when it is collected. */
export interface NativeShared {
  readonly pagefaultShared: never;
}

/** How a region knows what was written: it is read-only, the kernel notes it, or the first write to each page is a fault. */
export type NativeTracking = 'none' | 'async' | 'fault';

/** Where the pages of a region come from. */
export type NativeSource =
  /** `fd` stays the caller's: the region has a descriptor of its own for the same file. Open for writing where the region is writable. */
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
  /** Bytes that a store in JavaScript is asked for at once where nobody waits, 0 for a page. */
  longestRead: number;
  /** Id from `budgetCreate`, or 0 for no limit. */
  budget: number;
  faultTimeoutMs: number;
  /** 0: no page is told of before its deadline. */
  stallAfterMs: number;
  /** How often it wants our signal handlers looked after; the smallest of all open regions counts. */
  pollIntervalMs: number;
  /** Writes are kept and written back. */
  writable: boolean;
  /** The store is told of the first write to each page. */
  onWrite: boolean;
  /** What a raw touch of a page that cannot be had does. */
  unreadable: 'abort' | 'zero';
  /** For reports and /proc/self/maps. */
  name: string;
  /** For reports: e.g. `file(/data/vectors.f32)`. */
  storeName: string;
  /** Page this memory instead of reserving some: whole system pages that outlive the region and whatever becomes of it. */
  into?: Uint8Array;
  /** What of the region lies behind `into` is reserved, and may be opened by its owner: a WebAssembly.Memory grows. */
  intoGrows?: boolean;
  /** Number of the hold on `into`. */
  hold?: number;
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

/** What is known of a page that is late: `Stall` of the segment's events. */
export interface NativeStall {
  /** Of the page in the region, in bytes. */
  offset: number;
  page: number;
  /** How long the thread had waited when it was looked at. */
  waitedMs: number;
  /** The kernel's number of the thread that waits (as in /proc/self/task). */
  threadId: number;
  store: string;
  /** What the store was doing, in a sentence: the orders that its Worker has, whether it has taken them, why it may not answer. */
  doing: string;
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
  'writeFaults', // first writes to a page that came as faults
  'storeWrites', // writes asked of the store (one may bring several pages)
  'bytesWritten', // bytes that the store took
  'flushedPages', // pages written by flush
  'writeBacks', // modified pages written by eviction
  'writeFailures', // writes that the store did not take
  'forwardedSignals', // process-wide: signals handed on to the handler that was there before
  'handlerReinstalls', // process-wide: times our signal handler was put back
  'stalls', // pages that took longer than stallAfterMs
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

/** Bits of a byte that `regionMarks` writes. */
export const PAGE_MARK = {
  /** May differ from the store. Where the kernel notes writes, only as far as the core has asked it. */
  dirty: 1,
  /** In a flush that is not confirmed. */
  sticky: 2,
  /** Opened for writing (where writes are faults). */
  writable: 4,
  /** Modifications are forgotten once it is unpinned. */
  discard: 8,
} as const;

export interface NativeProbe {
  pageSize: number;
  /** `uname -r`. */
  kernel: string;
  arch: string;
  /** 0 when userfaultfd(2) in user-mode-only mode works, else the errno that refused it. */
  userfaultfdErrno: number;
  /** 0 when userfaultfd(2) works for kernel-mode faults too, else the errno. */
  kernelFaultsErrno: number;
  /** 0 when the engine can have a userfaultfd for faults of this program, by the system call or from a device. */
  engineErrno: number;
  /** The same with the faults of the kernel: backend `thread`. */
  servedErrno: number;
  /** That comes from a descriptor of /dev/userfaultfd, lent or opened. */
  servedByDevice: boolean;
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
  /** How backend `signal` sees writes where the store has no `onWrite`; 'none': it cannot. */
  writeTracking: NativeTracking;
  /** Whether userfaultfd serves memory that is mapped from an object (backend `memfd`, patches): not, read-only, or writable too. */
  sharedPages: 'none' | 'read' | 'write';
}

export interface NativeBinding extends NativeKernel {
  probe(): NativeProbe;
  /** Takes what it needs of userfaultfd(2) from this descriptor of /dev/userfaultfd, which stays the caller's. 0 or an errno; ENOTTY: it is none. */
  lendDevice(fd: number): number;
  /** The same for the one that PAGEFAULT_USERFAULTFD names, which is empty then in the environment of the process. Nothing where one was lent before. */
  takeDevice(fd: number): number;
  systemPageSize(): number;
  /** Tells this copy of the library from others in the process. */
  core(): bigint;

  /** `limit` in bytes. Throws ERR_PAGEFAULT_SYSTEM. */
  budgetCreate(limit: number): number;
  /** Lives on until its last region is closed. */
  budgetRelease(budget: number): void;
  /** Writes used, limit, resident, staged, pinned (bytes). */
  budgetStats(budget: number, out: Float64Array): void;

  regionCreate(options: NativeRegionOptions): { id: number; address: bigint; tracking: NativeTracking };
  /** The memory as a new external ArrayBuffer of `byteLength`; collected unclosed, it closes the region. */
  regionArrayBuffer(id: number): ArrayBuffer;
  /** The same as a SharedArrayBuffer, or undefined where the runtime cannot (then `into` is the way). */
  regionSharedArrayBuffer(id: number): SharedArrayBuffer | undefined;
  /** One more holder (`open` in another thread); undone by `regionClose`. Throws ERR_PAGEFAULT_STALE_HANDLE if it is gone or closed, or is another one than the numbers say. */
  regionAcquire(
    id: number,
    address: bigint,
    byteLength: number,
    pageSize: number,
    writable: boolean,
    bytes: Uint8Array,
  ): void;
  /**
   * Drops one holder. With the last one (or `force`): touches fail, waits end, pages are dropped. A plain `buffer` given is detached and
   * the memory unmapped, as it is when none was ever made; shared memory stays registered, and a touch of it fails with "segment closed". Returns true when the region ended.
   */
  regionClose(id: number, buffer: ArrayBuffer | undefined, force: boolean): boolean;
  /** True while the region is open. Never throws. */
  regionIsOpen(id: number): boolean;
  /** Drops one holder, unless it is the last: then false, and nothing has changed. For a region that was written to. */
  regionLeave(id: number): boolean;

  /** Memory that grows (`intoGrows`) has at least so many bytes of the region now. Behind that, nothing must be read or loaded. */
  regionReaches(id: number, byteLength: number): void;

  /**
   * Where the bytes lie, and what the kernel says of the whole pages among them; writes four numbers: bytes that are mapped without a hole, bytes that are
   * accessible from the start, bytes that are reserved and inaccessible right behind, and 1 if all is private anonymous memory.
   */
  memoryLook(bytes: Uint8Array, out: Float64Array): bigint;
  /** Keeps the memory of a buffer, whatever becomes of the buffer and its thread, until `memoryRelease`. 0 where the runtime gives no way to. */
  memoryHold(bytes: Uint8Array): number;
  /**
   * Ends a hold if nobody else has the memory, and no open segment; true when it has ended, or cannot. Holds of threads that have ended are looked at, too, as they
   * are whenever one is made.
   */
  memoryRelease(hold: number): boolean;
  /** Its owner is about to unmap it: closed segments let go of it. Returns the name of an open segment that pages some of it. */
  memoryForget(address: bigint, byteLength: number): string | undefined;

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
  /**
   * Like `regionLoad`: loads pages ahead, in this order. `pairs` are the bytes of pairs of u32, a page and a count. Nobody waits for them: what cannot be had is
   * left for its own touch, what the budget has no room for is left out, and all that follows. `done` gets how many pages it came to, times `pageSize`.
   * Does not keep the loop alive.
   */
  regionReplay(
    id: number,
    pairs: Uint8Array,
    done: (failure: NativeFailure | null, bytes: number) => void,
    progress: ((bytes: number) => void) | undefined,
  ): number;
  /** From here on the first `most` pages that threads need are noted, and what is read ahead for them. Once a region. Throws ERR_PAGEFAULT_NO_MEMORY. */
  regionRecord(id: number, most: number): void;
  /** What was noted, in order: `count` elements, fewer than the arrays have while threads are noting. `missed`: pages for which there was no room. */
  regionTouched(id: number): { count: number; missed: number; pages: Uint32Array; atUs: Float64Array };
  /** Copies into the region, loading what is missing and asking `onWrite` on this thread. Throws like `regionRead`: what lies before the page is written then. */
  regionWrite(id: number, offset: number, bytes: Uint8Array): void;
  /** What is modified: pairs of offset and byteLength, whole pages clipped to the region. Throws ERR_PAGEFAULT_SYSTEM if the kernel cannot say. */
  regionDirty(id: number, offset: number, byteLength: number): Float64Array;
  /** Like `regionLoad`: writes what is modified in the pages that touch the range, then syncs the store. */
  regionFlush(
    id: number,
    offset: number,
    byteLength: number,
    done: (failure: NativeFailure | null) => void,
    progress: ((bytes: number) => void) | undefined,
  ): number;
  /**
   * Like `regionLoad`, on threads of its own: bytes of the region to a descriptor, or (`into`) from it until it ends. `position` in the file, or -1: where
   * the descriptor stands. Works on a duplicate of `fd`. `done` gets the bytes transferred, exact however it ended, and the errno of the descriptor or 0.
   */
  regionTransfer(
    id: number,
    into: boolean,
    fd: number,
    offset: number,
    byteLength: number,
    position: number,
    done: (failure: NativeFailure | null, bytes: number, errno: number) => void,
    progress: ((bytes: number) => void) | undefined,
  ): number;
  /** Like `regionLoad`: copies out into `bytes`, or (`into`) from what they hold now. They must not be of a region. */
  regionCopy(
    id: number,
    into: boolean,
    offset: number,
    bytes: Uint8Array,
    done: (failure: NativeFailure | null, bytes: number) => void,
  ): number;
  /** Whole pages inside the range: modifications are forgotten. */
  regionDiscard(id: number, offset: number, byteLength: number): void;
  /** Whole pages inside the range: the next write to each is seen again. */
  regionResetWriteDetection(id: number, offset: number, byteLength: number): void;
  /** One byte a page from `firstPage`: PAGE_MARK. */
  regionMarks(id: number, firstPage: number, out: Uint8Array): void;
  /** A clause about what is modified and would be lost, with the pages; '' where nothing is, the region is closed, or the kernel cannot say. */
  regionUnflushed(id: number): string;
  /** The same of when the region was closed by the collector; '' if it was not, and the next time. */
  regionTakeLost(id: number): string;
  /** Prints one line about an open region that has modified pages. Never twice for a region; never throws. */
  regionReportUnflushed(id: number): void;
  /** Ends the job soon with code ERR_PAGEFAULT_ABORTED; harmless when it is over. */
  jobCancel(job: number): void;
  regionUnpin(id: number, offset: number, byteLength: number): void;
  /** Whole pages inside the range, clean and unpinned. Returns the bytes freed. Of the whole region: takes off patches, too. */
  regionRelease(id: number, offset: number, byteLength: number): number;
  /** Whole pages inside the range are read again on the next touch. Pinned ones when they are unpinned. A file source takes the file as it is now. */
  regionInvalidate(id: number, offset: number, byteLength: number): void;
  /** Throws ERR_PAGEFAULT_SYSTEM. */
  sharedCreate(byteLength: number): NativeShared;
  /** What another process made; `fd` stays the caller's. Undefined where it is something else. */
  sharedAdopt(fd: number): NativeShared | undefined;
  /** These throw ERR_PAGEFAULT_CLOSED once it is closed. */
  sharedByteLength(shared: NativeShared): number;
  sharedFilled(shared: NativeShared): number;
  sharedFd(shared: NativeShared): number;
  /** This thread's hold ends; regions that have it keep it. Idempotent. */
  sharedClose(shared: NativeShared): void;
  /** Lays all of it over whole pages (or up to the region's end). 0, or what is in the way: EBUSY (pinned), EEXIST (modified), EOPNOTSUPP (the kernel cannot). */
  regionPatch(id: number, offset: number, shared: NativeShared): number;

  /** Writes STAT in order, then the histogram. */
  regionStats(id: number, out: Float64Array): void;
  /** One byte a page from `firstPage`. */
  regionStates(id: number, firstPage: number, out: Uint8Array): void;
  /** Failures after the one with this serial, oldest first, as many as are kept (for the 'pageerror' event). */
  regionTakeFailures(id: number, after: number): (NativeFailure & { serial: number; store: string })[];
  /** The same of pages that are late (for the 'stall' event). */
  regionTakeStalls(id: number, after: number): (NativeStall & { serial: number })[];
  /** The newest serials of both. */
  eventSerials(): { failures: number; stalls: number };

  /** From here to `attemptEnd` a raw touch on this thread of a page that cannot be had is recorded instead of ending the process. Nests. */
  attemptBegin(): void;
  /** The first failure since the matching `attemptBegin`, or null. */
  attemptEnd(): NativeFailure | null;

  /**
   * Makes this thread (a Worker) a pager. `dispatch(slot, store, offset, length, access, timeoutMs)` is called for each page wanted:
   * access 0 read, 1 read for a write, 2 ahead. It returns the bytes put into `pagerBuffer(slot)`, -1 for "as it is (zero)",
   * or -2 when `pagerComplete` or `pagerFail` will follow. Of writable regions also: 3 a page is about to be written for the first
   * time; 4 pages are to be written out: `length` bytes (at most 1 MiB, clipped to the store), which `pagerFetch` puts into the slot's
   * buffer; 5 what was written is to be durable. These are answered with 0. It must not throw. The pager does not keep the loop alive.
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
  /** New memory for a slot, at least `length` bytes, used until the slot is retired or given other memory. */
  pagerBuffer(pager: number, slot: number, length: number): ArrayBuffer;
  /** Copies what an order of access 4 is to write into the slot's buffer. Bytes copied, -1: the order is gone, -2: the buffer is too small. */
  pagerFetch(pager: number, slot: number): number;
  /** Of an order that is not answered yet: nobody waits for the answer any more. */
  pagerGivenUp(pager: number, slot: number): boolean;
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
  /** With `look`: looks whether our signal handlers are still installed and puts them back. Returns how often that has happened so far. */
  checkHandlers(look: boolean): number;
  /** How many signals that were not ours have been handed on to the handlers that were there before. */
  forwardedSignals(): number;
  /** How often the core looks, in ms: the smallest `pollIntervalMs` of all open regions. */
  pollInterval(): number;
  /** Bytes of memory that the core itself holds beside pages (state tables, queues, scratch buffers), for tests and `stats`. */
  overheadBytes(): number;
  /** Open regions, scratch buffers, file descriptors, loader threads and budgets of the core: for leak tests. */
  census(): { regions: number; buffers: number; descriptors: number; threads: number; budgets: number };
}
