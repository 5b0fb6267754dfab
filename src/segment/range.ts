/** Ranges of bytes: which part of a store a segment shows, and which part of a segment an operation means. Any thread. */

import { constants } from 'node:buffer';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { StoreError } from '../errors/store-error.js';
import { probe } from '../native/load.js';

/** A part of a segment. */
export interface Range {
  offset: number;
  byteLength: number;
}

/** Throws unless `value` is a whole number of at least `least`. */
export function checkCount(what: string, value: unknown, least: number): asserts value is number {
  if (typeof value !== 'number') throw wrongType(`${what} must be a number, not ${shown(value)}`);
  if (!Number.isSafeInteger(value) || value < least) {
    throw outOfRange(`${what} must be a whole number from ${least} to 2^53 - 1, not ${value}`);
  }
}

/** The part of a segment of `whole` bytes that an operation means; by default all of it from `offset`. */
export function checkRange(who: string, whole: number, offset: unknown, byteLength: unknown): Range {
  const from = offset ?? 0;
  checkCount(`${who}: offset`, from, 0);
  if (from > whole) throw outOfRange(`${who}: offset ${from} is past the end of the segment at ${whole}`);
  const length = byteLength ?? whole - from;
  checkCount(`${who}: byteLength`, length, 0);
  if (length > whole - from) {
    throw outOfRange(`${who}: ${length} bytes from offset ${from} reach past the end of the segment at ${whole}`);
  }
  return { offset: from, byteLength: length };
}

/** The part of a store that a segment shows: the range, and how much of it the store has. */
export interface Shown extends Range {
  storeLength: number;
}

/** Works out the part of a store of `total` bytes that `map` was asked for. */
export function shownPart(
  total: number,
  storeName: string,
  asked: { offset: number; byteLength: number | undefined; pad: boolean },
): Shown {
  if (total === 0) throw new StoreError('ERR_PAGEFAULT_STORE_EMPTY', `${storeName} is empty: there is nothing to map`);
  const { offset, pad } = asked;
  if (offset >= total) {
    throw outOfRange(`map(): offset ${offset} is past the end of ${storeName}, which has ${total} bytes`);
  }
  const rest = total - offset;
  const byteLength = asked.byteLength ?? rest;
  if (byteLength > rest && !pad) {
    throw outOfRange(
      `map(): byteLength ${byteLength} is more than the ${rest} bytes that ${storeName} has from offset ${offset}; pad: true makes the rest read zero`,
    );
  }
  return { offset, byteLength, storeLength: Math.min(byteLength, rest) };
}

/** User space ends at 2^47 bytes; the runtime takes buffers up to here. */
const PRACTICAL_LIMIT = 2 ** 45;
/** The most that a WebAssembly.Memory of 32-bit addresses can have. */
const WASM_LIMIT = 2 ** 32;

/** Throws if the runtime cannot hold a buffer of this length. */
export function checkHeld(byteLength: number, shared: boolean): void {
  const viaWasm = shared && !probe().externalSharedArrayBuffer;
  const most = Math.min(constants.MAX_LENGTH, PRACTICAL_LIMIT, viaWasm ? WASM_LIMIT : PRACTICAL_LIMIT);
  if (byteLength <= most) return;
  const what = viaWasm ? 'shared buffer' : 'buffer';
  const hint = constants.MAX_LENGTH < PRACTICAL_LIMIT ? '; Node.js 22 and later hold more' : '';
  throw outOfRange(
    `map(): byteLength ${byteLength} is more than the ${most} bytes that Node.js ${process.versions.node} holds in one ${what}${hint}`,
  );
}
