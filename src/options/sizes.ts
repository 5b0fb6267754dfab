/** Sizes: a number of bytes, or a string with a unit. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';

const UNITS: Readonly<Record<string, number>> = { '': 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30 };

/** A size: bytes, or a string such as '64MiB', '1.5GiB', '4096'. */
export type Size = number | string;

/** Bytes of a size. `what` begins the sentence of the error: an option's name, a function's argument. */
export function parseSize(what: string, size: unknown): number {
  if (typeof size === 'number') {
    if (!Number.isSafeInteger(size) || size < 0) {
      throw outOfRange(`${what} must be a whole number of bytes from 0 to 2^53 - 1, not ${size}`);
    }
    return size;
  }
  if (typeof size !== 'string') {
    throw wrongType(`${what} must be a number of bytes or a string such as '64MiB', not ${shown(size)}`);
  }
  const [, digits, unit = ''] = /^(\d+(?:\.\d+)?) ?([A-Za-z]*)$/.exec(size) ?? [];
  const scale = Object.hasOwn(UNITS, unit) ? UNITS[unit] : undefined;
  if (digits === undefined || scale === undefined) {
    throw wrongType(`${what} must be a number with KiB, MiB or GiB, such as '64MiB', not ${shown(size)}`);
  }
  const bytes = Number(digits) * scale;
  if (!Number.isSafeInteger(bytes)) {
    throw outOfRange(`${what} must come to a whole number of bytes below 2^53; ${shown(size)} does not`);
  }
  return bytes;
}

/** A number of bytes for a sentence: '4096 bytes', '64 MiB'. */
export function formatSize(bytes: number): string {
  for (const unit of ['GiB', 'MiB', 'KiB']) {
    const scale = UNITS[unit] ?? 1;
    if (bytes >= scale && bytes % scale === 0) return `${bytes / scale} ${unit}`;
  }
  return bytes === 1 ? '1 byte' : `${bytes} bytes`;
}
