/** The store `uds`: a page server behind a Unix socket. Any thread. */

import { resolve } from 'node:path';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { checkKeys } from '../options/keys.js';
import { parseSize, type Size } from '../options/sizes.js';
import type { UdsRef } from './ref.js';
import { checkWirePageSize, PAGE_BYTES } from './uds/protocol.js';

export interface UdsOptions {
  /**
   * The address that the server knows the store's first byte by: a multiple of `pageSize`.
   * @default 0n
   */
  base?: bigint;
  /**
   * Bytes that are asked for at once, and the page size of a segment that is given none: a power of two from 4096 to 2 MiB, in bytes or as '16KiB'.
   * @default 4096
   */
  pageSize?: Size;
  /** Bytes of the store, in bytes or as '64MiB'. The server does not tell: without it, `map` needs its own `byteLength`. */
  byteLength?: Size;
}

const ADDRESSES = 1n << 64n;
/** What sun_path has, without the zero at its end. */
const PATH_MAX = 107;

function socketPath(path: unknown): string {
  if (typeof path !== 'string') throw wrongType(`uds(): the path must be a string, not ${shown(path)}`);
  if (path === '' || path.includes('\0')) {
    throw wrongType('uds(): the path of a socket must not be empty and must not hold a null byte');
  }
  const absolute = resolve(path);
  const bytes = Buffer.byteLength(absolute);
  if (bytes <= PATH_MAX) return absolute;
  throw outOfRange(
    `uds(): the path of a socket has at most ${PATH_MAX} bytes, and this one has ${bytes}: ${shown(absolute)}`,
  );
}

function checkBase(base: unknown, pageSize: number): bigint {
  if (typeof base !== 'bigint')
    throw wrongType(`uds(): base must be a bigint, such as 0x8000_0000n, not ${shown(base)}`);
  if (base < 0n || base >= ADDRESSES) throw outOfRange(`uds(): base must be from 0n to 2^64 - 1, not ${base}n`);
  if (base % BigInt(pageSize) === 0n) return base;
  throw outOfRange(`uds(): base must be a multiple of pageSize, ${pageSize} bytes, and 0x${base.toString(16)} is not`);
}

/**
 * Pages from a page server (`servePages`, `pagefault serve pages`) at a Unix socket. The path is resolved now, the connection is made by
 * `map`. One connection serves all faults; one that is lost is made again, and the faults wait meanwhile until their deadline.
 *
 * @throws TypeError, RangeError for wrong arguments
 * @example
 * const segment = await map(uds('/run/pages.sock', { base: 0x8000_0000n, pageSize: '16KiB', byteLength: '256MiB' }));
 */
export function uds(path: string, options: UdsOptions = {}): UdsRef {
  checkKeys('uds()', options, ['base', 'pageSize', 'byteLength']);
  const pageSize = checkWirePageSize(
    'uds(): pageSize',
    parseSize('uds(): pageSize', options.pageSize ?? PAGE_BYTES.least),
  );
  const base = checkBase(options.base ?? 0n, pageSize);
  const byteLength = options.byteLength === undefined ? undefined : parseSize('uds(): byteLength', options.byteLength);
  if (byteLength === 0) throw outOfRange('uds(): byteLength must be at least 1');
  if (byteLength !== undefined && base + BigInt(byteLength) > ADDRESSES) {
    throw outOfRange(`uds(): ${byteLength} bytes from base 0x${base.toString(16)} would go beyond 2^64`);
  }
  return Object.freeze({ kind: 'uds', path: socketPath(path), base, pageSize, byteLength });
}
