/** What a store written in JavaScript is. The pager's Worker calls it, never the thread that faults. */

/** How a page is wanted. */
export interface ReadHow {
  /** `read`: a thread waits for it. `write`: a thread waits to write to it. `ahead`: nobody waits yet. */
  readonly access: 'read' | 'write' | 'ahead';
  /** Aborted when the answer is of no use any more: the deadline is over, or the segment is closed. */
  readonly signal: AbortSignal;
}

/** How bytes are to be written. */
export interface WriteHow {
  /** Aborted when nobody waits for the answer any more: the deadline is over, or the segment is closed. */
  readonly signal: AbortSignal;
}

/**
 * What `read` answers: the number of bytes put into `into`; or chunks, which are copied once, in order; or null, which
 * opens the page as it is (zero where it is new).
 */
export type ReadAnswer = number | Uint8Array[] | null;

/** The object that the default export of a store module returns. */
export interface PageStore {
  /** How many bytes the store has. Must not change while it is open. */
  readonly byteLength: number;
  /** The page size that suits the store best, where the caller does not ask for one. */
  readonly pageSize?: number;
  /**
   * How many calls of `read`, `write`, `onWrite` and `sync` may be in flight at once; at most half of them, but one at
   * least, are `write` and `sync`.
   * @default 16
   */
  readonly concurrency?: number;
  /**
   * How many bytes one `read` with `access: 'ahead'` may be asked for: pages that lie behind each other then come in one
   * call, up to 256 KiB, where a working set is replayed, a range loaded, or a reader goes through the pages in order.
   * A page that a thread waits for is always asked for alone; one that is touched while it waits to be read ahead comes with the others.
   * @default one page
   */
  readonly longestRead?: number;
  /**
   * Fills `into` with the bytes at `offset`. `into` is one page, shorter only at the end of the store (but see
   * {@link longestRead}), and is valid until the answer is given. A throw or a rejection is tried again with growing pauses until the deadline, unless the
   * error has a property `permanent` that is true.
   */
  read(offset: number, into: Uint8Array, how: ReadHow): ReadAnswer | Promise<ReadAnswer>;
  /**
   * Keeps `bytes` at `offset`: the modified pages of a writable segment that lie behind each other, up to 1 MiB, shorter
   * than whole pages only at the end of the store. All of them must be kept when it returns or resolves; what it returns
   * is not looked at. `bytes` is valid until then, and copied memory: what is written to the segment meanwhile does not
   * show in it. A throw or a rejection is tried again like that of `read`; then `flush` rejects, the pages stay modified,
   * and nothing is lost. Without `write` the store cannot be mapped with `writable: true`.
   */
  write?(offset: number, bytes: Uint8Array, how: WriteHow): void | Promise<void>;
  /**
   * Called before the first write to a page that is not modified goes through, with the page's place in the store: to
   * take a lock, to keep the old bytes, to refuse. The thread that writes is stopped meanwhile, and each such page costs
   * a fault; without `onWrite` the kernel notes writes itself where it can, which costs none. A throw or a rejection is
   * tried again like that of `read`; then the write fails, and the page stays as it is.
   */
  onWrite?(offset: number, byteLength: number): void | Promise<void>;
  /**
   * Makes durable what was written before. Called at the end of a flush, after all its writes. A throw or a rejection is
   * not tried again, because a store that could not do it may have lost what it was given: `flush` rejects, and everything
   * written since the last `sync` that did well counts as modified again, also what had left memory for a budget.
   */
  sync?(): void | Promise<void>;
  /** Called once, when the segment is closed. */
  close?(): void | Promise<void>;
}

/** The default export of a store module. */
export type OpenStore<Options = unknown> = (options: Options) => PageStore | Promise<PageStore>;
