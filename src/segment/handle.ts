/** What travels to another thread, so that it can open the same segment. Plain data over a SharedArrayBuffer. */

import { shown, wrongType } from '../errors/argument.js';
import { StaleHandleError } from '../errors/stale-handle-error.js';
import { native } from '../native/load.js';
import type { Backend } from './backend.js';
import { bufferOf, type WasmMemory } from './wasm-memory.js';

/** Structured-cloneable: post it to a Worker and pass it to `open` there. */
export interface SegmentHandle {
  /** Version of this form. */
  readonly pagefault: 1;
  /** The process, and the copy of the library in it, that knows the segment. */
  readonly process: number;
  readonly core: bigint;
  /** The core's number of the segment. */
  readonly segment: number;
  readonly name: string;
  readonly byteLength: number;
  readonly pageSize: number;
  readonly address: bigint;
  readonly writable: boolean;
  readonly backend: Backend;
  readonly backendReason: string;
  readonly buffer: SharedArrayBuffer;
  /** Where the segment begins in the buffer. */
  readonly bufferOffset: number;
  /** The memory of the buffer, where it is one that grows. */
  readonly memory: WasmMemory | undefined;
}

const FORM = 1;

/** Throws unless `handle` is what `segment.handle` gave. Whether it is of this process, and open: `checkOrigin`, and the core. */
export function checkHandle(handle: unknown): asserts handle is SegmentHandle {
  const given = (typeof handle === 'object' && handle !== null ? handle : {}) as Partial<SegmentHandle>;
  const form: unknown = given.pagefault;
  if (Number.isSafeInteger(form) && form !== FORM) {
    throw wrongType(
      `open(): the handle has form ${form}, and this version of pagefault knows form ${FORM}; use the same version in all threads`,
    );
  }
  const ok =
    given.pagefault === FORM &&
    Number.isSafeInteger(given.process) &&
    typeof given.core === 'bigint' &&
    Number.isSafeInteger(given.segment) &&
    Number.isSafeInteger(given.byteLength) &&
    Number.isSafeInteger(given.pageSize) &&
    typeof given.name === 'string' &&
    typeof given.address === 'bigint' &&
    typeof given.writable === 'boolean' &&
    given.buffer instanceof SharedArrayBuffer &&
    Number.isSafeInteger(given.bufferOffset) &&
    (given.memory === undefined
      ? given.buffer.byteLength - (given.bufferOffset ?? 0) >= (given.byteLength ?? 0)
      : bufferOf(given.memory) !== undefined);
  if (!ok) throw wrongType(`open(): the handle must be the 'handle' of a shared segment, not ${shown(handle)}`);
}

/** Of handles that are made here. */
export function origin(): { process: number; core: bigint } {
  return { process: process.pid, core: native().core() };
}

/** Throws a StaleHandleError for what another process, or another copy of the library in this one, has mapped. */
export function checkOrigin({ name, process: from, core }: SegmentHandle): void {
  if (from !== process.pid) {
    throw new StaleHandleError(name, `it was mapped by process ${from}, and this is process ${process.pid}`);
  }
  if (core !== native().core()) {
    throw new StaleHandleError(name, 'it was mapped by another copy of pagefault; import the same one in all threads');
  }
}
