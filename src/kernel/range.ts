/** Ranges of addresses: whole pages of the system. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import type { ArgumentErrorCode } from '../errors/codes.js';
import { systemPageSize } from '../native/load.js';

/** A range of addresses. A Mapping is one. */
export interface Range {
  /** A multiple of the system's page size. */
  readonly address: bigint;
  /** A multiple of the system's page size, above 0. */
  readonly byteLength: number;
}

let known: number | undefined;

/** The system's page size in bytes. */
export function pageSize(): number {
  known ??= systemPageSize();
  return known;
}

function sizeCode(byteLength: number): ArgumentErrorCode | undefined {
  if (byteLength === 0) return 'ERR_PAGEFAULT_ZERO_SIZE';
  return Number.isSafeInteger(byteLength) && byteLength > 0 ? 'ERR_PAGEFAULT_SIZE_NOT_ALIGNED' : undefined;
}

/**
 * Throws unless `range` is whole pages, not empty, and ends at 2^64 or before. `who` begins the sentence.
 * @throws TypeError, RangeError
 */
export function checkRange(who: string, range: unknown): asserts range is Range {
  if (typeof range !== 'object' || range === null)
    throw wrongType(`${who}: the range must be an object, not ${shown(range)}`);
  const { address, byteLength } = range as { address?: unknown; byteLength?: unknown };
  if (typeof address !== 'bigint') throw wrongType(`${who}: a range's address must be a bigint, not ${shown(address)}`);
  if (typeof byteLength !== 'number') {
    throw wrongType(`${who}: a range's byteLength must be a number of bytes, not ${shown(byteLength)}`);
  }
  const page = pageSize();
  if (!Number.isSafeInteger(byteLength) || byteLength <= 0 || byteLength % page !== 0) {
    throw outOfRange(
      `${who}: a range's byteLength must be a multiple of the page size, ${page}, above 0, not ${byteLength}`,
      sizeCode(byteLength),
    );
  }
  if (address < 0n || address % BigInt(page) !== 0n) {
    throw outOfRange(
      `${who}: a range's address must be a multiple of the page size, ${page}, not ${address}n`,
      address < 0n ? undefined : 'ERR_PAGEFAULT_BASE_NOT_ALIGNED',
    );
  }
  if (address + BigInt(byteLength) > 1n << 64n) {
    throw outOfRange(`${who}: the range of ${byteLength} bytes from 0x${address.toString(16)} ends after 2^64`);
  }
}
