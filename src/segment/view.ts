/** Typed arrays over a segment. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { checkCount } from './range.js';

/** Any typed array's constructor, or DataView's. */
export interface TypedArrayConstructor<T> {
  readonly name: string;
  readonly BYTES_PER_ELEMENT?: number;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): T;
}

/** The part of a buffer that a segment has. */
export interface Extent {
  bufferOffset: number;
  /** Bytes of the segment. The buffer of memory that grows may have fewer of them by now. */
  whole: number;
}

/** A view of `length` elements from `byteOffset`; by default as many as fit into the segment. */
export function makeView<T>(
  type: TypedArrayConstructor<T>,
  buffer: ArrayBufferLike,
  { bufferOffset, whole }: Extent,
  byteOffset: unknown,
  length: unknown,
): T {
  const byteLength = Math.min(whole, Math.max(0, buffer.byteLength - bufferOffset));
  if (byteLength === 0 && whole > 0) {
    throw wrongType('view(): the buffer of the segment was detached (transferred)', 'ERR_PAGEFAULT_NULL_BASE');
  }
  if (typeof type !== 'function' || (type.BYTES_PER_ELEMENT === undefined && type.name !== 'DataView')) {
    throw wrongType(`view(): the type must be a typed array such as Float32Array, not ${shown(type)}`);
  }
  const size = type.BYTES_PER_ELEMENT ?? 1;
  const from = byteOffset ?? 0;
  checkCount('view(): byteOffset', from, 0);
  if (from % size !== 0) {
    throw outOfRange(`view(): byteOffset ${from} is not a multiple of the ${size} bytes of an element of ${type.name}`);
  }
  const end = byteLength < whole ? 'what exists of the memory' : 'the segment';
  const code = byteLength < whole ? 'ERR_PAGEFAULT_OUT_OF_BOUNDS' : 'ERR_PAGEFAULT_OUT_OF_RANGE';
  if (from > byteLength)
    throw outOfRange(`view(): byteOffset ${from} is past the end of ${end} at ${byteLength}`, code);
  const count = length ?? Math.floor((byteLength - from) / size);
  checkCount('view(): length', count, 0);
  if (count * size > byteLength - from) {
    throw outOfRange(
      `view(): ${count} elements of ${size} bytes from byteOffset ${from} reach past the end of ${end} at ${byteLength}`,
      code,
    );
  }
  return new type(buffer, bufferOffset + from, count);
}
