/** The addon of test/helpers/moving.c: `sendfile` and its like, which Node does not have. */

import { createRequire } from 'node:module';
import { compileAddon } from './compile-c.js';

type Ends = [number, number];
/** What `out` got from `in`: all of `count`, unless `in` ended. */
type Move = (out: number, source: number, count: number) => number;
/** One call; the number of bytes. */
type Transfer = (fd: number, bytes: Uint8Array) => number;

export interface Moving {
  /** A TCP connection. */
  sockets(): Ends;
  /** The end to read from, and the end to write to. */
  pipe(): Ends;
  memfd(): number;
  sendfile: Move;
  splice: Move;
  copyFileRange: Move;
  /** `sendfile` from a file, `splice` from anything else, on a thread of its own, which closes both at the end. */
  later(out: number, source: number, count: number): void;
  readv: Transfer;
  /** Waits for all of it. */
  recv: Transfer;
  /** The same, and leaves it there. */
  peek: Transfer;
  writev: Transfer;
  /** With MSG_ZEROCOPY. */
  send: Transfer;
  vmsplice: Transfer;
}

let addon: Moving | undefined;

/** Compiled when it is first wanted. */
export function moving(): Moving {
  addon ??= createRequire(import.meta.url)(compileAddon('moving.c')) as Moving;
  return addon;
}
