/**
 * References to stores: plain, frozen data that says where pages come from, so that it can travel to a Worker. Nothing
 * is opened before `map`. Any thread.
 */

/** Bytes of a regular file, read by the core. */
export interface FileRef {
  readonly kind: 'file';
  /** Absolute. */
  readonly path: string;
  /** Where the store begins in the file. */
  readonly offset: number;
  /** Bytes of the store; undefined: up to the end of the file. */
  readonly byteLength: number | undefined;
  readonly onChange: 'fail' | 'ignore';
}

/** Bytes that are in memory already. */
export interface MemoryRef {
  readonly kind: 'memory';
  readonly bytes: Uint8Array;
}

/** Zeroes. */
export interface ZeroRef {
  readonly kind: 'zero';
  readonly byteLength: number;
}

/** A store written in JavaScript, opened in the pager's Worker. */
export interface CustomRef {
  readonly kind: 'custom';
  /** A `file:` URL. */
  readonly moduleUrl: string;
  readonly options: unknown;
}

/** Where the pages of a segment come from. Made by the functions of `pagefault/stores`. */
export type StoreRef = FileRef | MemoryRef | ZeroRef | CustomRef;
