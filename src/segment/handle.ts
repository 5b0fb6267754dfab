/** What travels to another thread, so that it can open the same segment. Plain data over a SharedArrayBuffer. */

import { shown, wrongType } from '../errors/argument.js';
import type { Backend } from './backend.js';

/** Structured-cloneable: post it to a Worker and pass it to `open` there. */
export interface SegmentHandle {
  /** Version of this form. */
  readonly pagefault: 1;
  /** The core's number of the segment. */
  readonly segment: number;
  readonly name: string;
  readonly byteLength: number;
  readonly pageSize: number;
  readonly address: bigint;
  readonly backend: Backend;
  readonly backendReason: string;
  readonly buffer: SharedArrayBuffer;
}

/** Throws unless `handle` is what `segment.handle` gave. */
export function checkHandle(handle: unknown): asserts handle is SegmentHandle {
  const given = (typeof handle === 'object' && handle !== null ? handle : {}) as Partial<SegmentHandle>;
  const ok =
    given.pagefault === 1 &&
    Number.isSafeInteger(given.segment) &&
    Number.isSafeInteger(given.byteLength) &&
    Number.isSafeInteger(given.pageSize) &&
    typeof given.name === 'string' &&
    typeof given.address === 'bigint' &&
    given.buffer instanceof SharedArrayBuffer &&
    given.buffer.byteLength >= (given.byteLength ?? 0);
  if (!ok) throw wrongType(`open(): the handle must be the 'handle' of a shared segment, not ${shown(handle)}`);
}
