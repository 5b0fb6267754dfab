/** The messages between the thread that maps and its pager's Worker. Faults do not travel this way. */

import type { StoreErrorCode } from '../errors/store-error.js';

/** The part of a store that a segment shows. */
export interface Part {
  offset: number;
  /** undefined: up to the end of the store. */
  byteLength: number | undefined;
  /** undefined: what the store prefers, else the system's. */
  pageSize: number | undefined;
  /** The store must be able to write. */
  writable: boolean;
}

export type ToWorker =
  | { type: 'open'; request: number; moduleUrl: string; options: unknown; part: Part }
  | { type: 'close'; request: number; store: number };

/** What `open` found. */
export interface Opened {
  store: number;
  byteLength: number;
  pageSize: number | undefined;
  /** Bytes that it may be asked for at once where nobody waits. */
  longestRead: number | undefined;
  /** It wants to know of first writes. */
  onWrite: boolean;
}

export type FromWorker =
  | { type: 'ready'; pager: number }
  | ({ type: 'opened'; request: number } & Opened)
  | { type: 'refused'; request: number; code: StoreErrorCode; message: string; cause: string }
  | { type: 'closed'; request: number };
