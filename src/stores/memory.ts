/** The store `memory`: bytes that are in memory already. Any thread. */

import { shown, wrongType } from '../errors/argument.js';
import type { MemoryRef } from './ref.js';

/**
 * Pages from bytes in memory. Bytes of a SharedArrayBuffer are used in place, and with `writable: true` they are what a
 * flush writes to; others are copied by `map`, so that what is written to them later is not seen.
 */
export function memory(bytes: ArrayBuffer | SharedArrayBuffer | ArrayBufferView): MemoryRef {
  if (ArrayBuffer.isView(bytes)) {
    return Object.freeze({ kind: 'memory', bytes: new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength) });
  }
  if (!(bytes instanceof ArrayBuffer) && !(bytes instanceof SharedArrayBuffer)) {
    throw wrongType(`memory(): the bytes must be an ArrayBuffer, a SharedArrayBuffer or a view, not ${shown(bytes)}`);
  }
  return Object.freeze({ kind: 'memory', bytes: new Uint8Array(bytes) });
}
