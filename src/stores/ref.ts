/**
 * References to stores: plain, frozen data that says where pages come from, so that it can travel to a Worker. Nothing
 * is opened before `map`. Any thread.
 */

/** Bytes of a regular file, read and written by the core. */
export interface FileRef {
  readonly kind: 'file';
  /** Absolute. */
  readonly path: string;
  /** Where the store begins in the file. */
  readonly offset: number;
  /** Bytes of the store; undefined: up to the end of the file. */
  readonly byteLength: number | undefined;
  readonly onChange: 'fail' | 'ignore';
  /** Bytes that the file gets where it does not exist; undefined: then it is an error. */
  readonly create: number | undefined;
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

/** Pages of a page server at the other end of a Unix socket, asked for by a store in the pager's Worker. */
export interface UdsRef {
  readonly kind: 'uds';
  /** Absolute. */
  readonly path: string;
  /** The address of the store's first byte. */
  readonly base: bigint;
  /** Bytes of a page, as they are asked for. */
  readonly pageSize: number;
  /** Bytes of the store; undefined: the server does not tell, so whoever uses it must say. */
  readonly byteLength: number | undefined;
}

/** Where the pages of a segment come from. Made by the functions of `pagefault/stores`. */
export type StoreRef = FileRef | MemoryRef | ZeroRef | CustomRef | UdsRef;
