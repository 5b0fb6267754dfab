/** What a store written in JavaScript is. The pager's Worker calls it, never the thread that faults. */

/** How a page is wanted. */
export interface ReadHow {
  /** `read`: a thread waits for it. `write`: a thread waits to write to it. `ahead`: nobody waits yet. */
  readonly access: 'read' | 'write' | 'ahead';
  /** Aborted when the answer is of no use any more: the deadline is over, or the segment is closed. */
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
   * How many reads may be in flight at once.
   * @default 16
   */
  readonly concurrency?: number;
  /**
   * Fills `into` with the bytes at `offset`. `into` is shorter than a page only at the end of the store, and is valid
   * until the answer is given. A throw or a rejection is tried again with growing pauses until the deadline, unless the
   * error has a property `permanent` that is true.
   */
  read(offset: number, into: Uint8Array, how: ReadHow): ReadAnswer | Promise<ReadAnswer>;
  /** Called once, when the segment is closed. */
  close?(): void | Promise<void>;
}

/** The default export of a store module. */
export type OpenStore<Options = unknown> = (options: Options) => PageStore | Promise<PageStore>;
