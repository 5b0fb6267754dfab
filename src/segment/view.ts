/** Typed arrays over a segment. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { checkCount } from './range.js';

/** Any typed array's constructor, or DataView's. */
export interface TypedArrayConstructor<T> {
  readonly name: string;
  readonly BYTES_PER_ELEMENT?: number;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): T;
}

/** A view of `length` elements from `byteOffset`; by default as many as fit into the segment. */
export function makeView<T>(
  type: TypedArrayConstructor<T>,
  buffer: ArrayBufferLike,
  byteLength: number,
  byteOffset: unknown,
  length: unknown,
): T {
  if (typeof type !== 'function' || (type.BYTES_PER_ELEMENT === undefined && type.name !== 'DataView')) {
    throw wrongType(`view(): the type must be a typed array such as Float32Array, not ${shown(type)}`);
  }
  const size = type.BYTES_PER_ELEMENT ?? 1;
  const from = byteOffset ?? 0;
  checkCount('view(): byteOffset', from, 0);
  if (from % size !== 0) {
    throw outOfRange(`view(): byteOffset ${from} is not a multiple of the ${size} bytes of an element of ${type.name}`);
  }
  if (from > byteLength) throw outOfRange(`view(): byteOffset ${from} is past the end of the segment at ${byteLength}`);
  const count = length ?? Math.floor((byteLength - from) / size);
  checkCount('view(): length', count, 0);
  if (count * size > byteLength - from) {
    throw outOfRange(
      `view(): ${count} elements of ${size} bytes from byteOffset ${from} reach past the end of the segment at ${byteLength}`,
    );
  }
  return new type(buffer, from, count);
}
