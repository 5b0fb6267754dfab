/**
 * The bytes of the page server protocol. All numbers are little-endian. Plain functions; any thread.
 *
 *     request   u64 address | u64 page size
 *     answer    u64 address | u64 page size | the page
 *
 * An answer repeats the numbers of its request, answers come in the order of the requests, and many requests may be on their way. There
 * is no word for "no": a server that cannot or will not answer closes the connection.
 */

import { outOfRange } from '../../errors/argument.js';
import type { PageMessage } from '../../errors/page-source-error.js';

/** Bytes of a request, and of the head of an answer. */
export const HEAD_BYTES = 16;
/** Which pages there are. */
export const PAGE_BYTES: { readonly least: number; readonly most: number } = { least: 4096, most: 2 ** 21 };

/** Writes a head at the beginning of `into`. */
export function encodeHead(into: Uint8Array, address: bigint, pageSize: number): void {
  const view = new DataView(into.buffer, into.byteOffset, HEAD_BYTES);
  view.setBigUint64(0, address, true);
  view.setBigUint64(8, BigInt(pageSize), true);
}

/** Reads a head. Both numbers may be anything. */
export function decodeHead(bytes: Uint8Array): PageMessage {
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEAD_BYTES);
  return { address: view.getBigUint64(0, true), pageSize: view.getBigUint64(8, true) };
}

/** True for a page size that may be asked for. */
export function isWirePageSize(pageSize: number): boolean {
  if (!Number.isSafeInteger(pageSize) || pageSize < PAGE_BYTES.least || pageSize > PAGE_BYTES.most) return false;
  return Number.isInteger(Math.log2(pageSize));
}

/** Throws a RangeError unless it is one. `what` begins the sentence. */
export function checkWirePageSize(what: string, pageSize: number): number {
  if (isWirePageSize(pageSize)) return pageSize;
  throw outOfRange(
    `${what} must be a power of two from ${PAGE_BYTES.least} to ${PAGE_BYTES.most} (2MiB), not ${pageSize}`,
  );
}

/** `0x80000000, 4096 bytes`. */
export function shownMessage({ address, pageSize }: PageMessage): string {
  return `address 0x${address.toString(16)}, ${pageSize} bytes`;
}
