/** Wrong arguments: plain TypeErrors and RangeErrors that carry a code. Any thread. */

import type { ArgumentErrorCode } from './codes.js';

/** A TypeError with a code. */
export function wrongType(message: string, code: ArgumentErrorCode = 'ERR_PAGEFAULT_INVALID_ARGUMENT'): TypeError {
  return Object.assign(new TypeError(message), { code });
}

/** A RangeError with a code. */
export function outOfRange(message: string, code: ArgumentErrorCode = 'ERR_PAGEFAULT_OUT_OF_RANGE'): RangeError {
  return Object.assign(new RangeError(message), { code });
}

/** What a value looks like in a sentence: short, never a whole object. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return value.length > 60 ? `'${value.slice(0, 57)}...'` : `'${value}'`;
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'function') return `a function${value.name ? ` (${value.name})` : ''}`;
  if (value === null || typeof value !== 'object') return String(value);
  if (Array.isArray(value)) return `an array of ${value.length}`;
  const name: unknown = Object.getPrototypeOf(value)?.constructor?.name;
  return typeof name === 'string' && name !== 'Object' ? `a ${name}` : 'an object';
}
