/** The store `zero`: zeroes. Any thread. */

import { outOfRange } from '../errors/argument.js';
import { parseSize, type Size } from '../options/sizes.js';
import type { ZeroRef } from './ref.js';

/** Pages of zeroes: `byteLength` of them, in bytes or as '64MiB'. */
export function zero(byteLength: Size): ZeroRef {
  const bytes = parseSize('zero(): byteLength', byteLength);
  if (bytes === 0) throw outOfRange('zero(): byteLength must be at least 1');
  return Object.freeze({ kind: 'zero', byteLength: bytes });
}
