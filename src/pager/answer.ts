/** Checks what a store answered and puts chunks into the page. Runs in the pager's Worker. */

import { shown } from '../errors/argument.js';
import type { PageErrorCode } from '../errors/codes.js';

/** An answer that no further try makes better. */
export class Refused extends Error {
  readonly code: PageErrorCode;

  constructor(code: PageErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

function checkCount(count: number, wanted: number): number {
  if (count === wanted) return count;
  if (!Number.isSafeInteger(count) || count < 0) {
    throw new Refused('ERR_PAGEFAULT_STORE', `read returned ${count}, which is no number of bytes`);
  }
  if (count < wanted) {
    throw new Refused('ERR_PAGEFAULT_SHORT_READ', `the store delivered ${count} of ${wanted} bytes`);
  }
  throw new Refused('ERR_PAGEFAULT_LONG_READ', `the store delivered ${count} bytes where ${wanted} were wanted`);
}

function copyChunks(chunks: unknown[], into: Uint8Array): number {
  let total = 0;
  for (const chunk of chunks) {
    if (!(chunk instanceof Uint8Array)) {
      throw new Refused(
        'ERR_PAGEFAULT_STORE',
        `read returned chunks of which one is ${shown(chunk)}, not a Uint8Array`,
      );
    }
    total += chunk.length;
  }
  checkCount(total, into.length);
  let at = 0;
  for (const chunk of chunks as Uint8Array[]) {
    into.set(chunk, at);
    at += chunk.length;
  }
  return total;
}

/** Bytes that are in `into` now, or -1 for "as it is". Throws {@link Refused}. */
export function accept(answer: unknown, into: Uint8Array): number {
  if (typeof answer === 'number') return checkCount(answer, into.length);
  if (answer === null) return -1;
  if (Array.isArray(answer)) return copyChunks(answer, into);
  throw new Refused(
    'ERR_PAGEFAULT_STORE',
    `read returned ${shown(answer)}; it must return the number of bytes filled, an array of Uint8Array, or null`,
  );
}

/** True for a promise and everything else with a `then`. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof value === 'object' && value !== null && typeof (value as { then?: unknown }).then === 'function';
}
