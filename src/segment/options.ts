/** The options of `map`: what they mean, and a sentence for each that is wrong. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { checkKeys } from '../options/keys.js';
import { formatSize, parseSize } from '../options/sizes.js';
import { Budget } from './budget.js';
import { checkCount } from './range.js';

export interface MapOptions {
  /**
   * Where the segment begins in the store, in bytes.
   * @default 0
   */
  offset?: number;
  /** Bytes of the segment; default up to the end of the store. */
  byteLength?: number;
  /** Bytes of a page: a power of two from the system's page size to 2 MiB. Default the store's preference, else the system's. */
  pageSize?: number;
  /**
   * How much of the segment may be in memory: bytes, '64MiB', or a `Budget` that several segments share. Default no
   * limit. Anything below four pages counts as four (and two more for each further
   * thread that faults at the same time).
   */
  resident?: number | string | Budget;
  /**
   * Bytes read ahead with each miss: a size, 0 for none, or 'auto', which grows on sequential access and reads nothing
   * ahead on random access.
   * @default 'auto'
   */
  readahead?: number | string | 'auto';
  /** Not in this release: segments are read-only. */
  writable?: false;
  /**
   * A `byteLength` past the store's end is refused; with true the rest reads zero.
   * @default false
   */
  pad?: boolean;
  /**
   * True: a SharedArrayBuffer, which `open` shows to other threads. False: an ArrayBuffer.
   * @default false
   */
  shared?: boolean;
  /**
   * How pages get in; 'auto' picks what works here.
   * @default 'auto'
   */
  backend?: 'auto' | 'signal' | 'mprotect';
  /**
   * What a raw touch of a page that cannot be had does: ends the process with a report, or reads zeroes.
   * @default 'abort'
   */
  unreadable?: 'abort' | 'zero';
  /**
   * How long a page may take before it is given up.
   * @default 30000
   */
  faultTimeoutMs?: number;
  /** For errors, reports and /proc/self/maps. Default the store's description. */
  name?: string;
  /** Ends the opening; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** The options with their defaults, checked. What needs the store (pageSize, budget) is checked once it is open. */
export interface CheckedOptions {
  offset: number;
  byteLength: number | undefined;
  pageSize: number | undefined;
  resident: number | Budget | undefined;
  /** -1 for adaptive. */
  readahead: number;
  pad: boolean;
  shared: boolean;
  backend: 'auto' | 'signal' | 'mprotect';
  unreadable: 'abort' | 'zero';
  faultTimeoutMs: number;
  name: string | undefined;
  signal: AbortSignal | undefined;
}

const KNOWN = [
  'offset',
  'byteLength',
  'pageSize',
  'resident',
  'readahead',
  'writable',
  'pad',
  'shared',
  'into',
  'backend',
  'unreadable',
  'faultTimeoutMs',
  'name',
  'signal',
] as const;

const LARGEST_PAGE = 2 ** 21;
const LARGEST_READAHEAD = 2 ** 30;
const LARGEST_TIMEOUT = 2 ** 31 - 1;

/** Options of the design that this release does not have yet: better a sentence than silence. */
function refuseLater(options: Record<string, unknown>): void {
  const later = (sentence: string): never => {
    throw wrongType(`map(): ${sentence}`, 'ERR_PAGEFAULT_NOT_YET');
  };
  if (options['writable'] === true) later('segments are read-only in this release, so writable: true is refused');
  if (options['into'] !== undefined) later('paging memory that exists (into) is not in this release');
  const { backend } = options;
  if (backend === 'memfd' || backend === 'thread' || backend === 'kernel') {
    later(`backend '${backend}' is not in this release; there are 'auto', 'signal' and 'mprotect'`);
  }
}

function flag(name: string, value: unknown): boolean {
  if (value === undefined) return false;
  if (typeof value !== 'boolean') throw wrongType(`map(): ${name} must be true or false, not ${shown(value)}`);
  return value;
}

function oneOf<T extends string>(name: string, value: unknown, allowed: readonly T[], otherwise: T): T {
  if (value === undefined) return otherwise;
  if (allowed.includes(value as T)) return value as T;
  throw wrongType(`map(): ${name} must be ${allowed.map((word) => `'${word}'`).join(' or ')}, not ${shown(value)}`);
}

function readahead(value: unknown): number {
  if (value === undefined || value === 'auto') return -1;
  const bytes = parseSize("map(): readahead, unless it is 'auto',", value);
  if (bytes > LARGEST_READAHEAD) throw outOfRange(`map(): readahead must be at most 1 GiB, not ${formatSize(bytes)}`);
  return bytes;
}

function resident(value: unknown): number | Budget | undefined {
  if (value === undefined || value instanceof Budget) return value;
  if (typeof value === 'object' && value !== null) {
    throw wrongType(`map(): resident must be a size or what budget() returned, not ${shown(value)}`);
  }
  return parseSize('map(): resident', value);
}

function timeout(value: unknown): number {
  if (value === undefined) return 30_000;
  checkCount('map(): faultTimeoutMs', value, 1);
  if (value > LARGEST_TIMEOUT) throw outOfRange(`map(): faultTimeoutMs must be at most 2^31 - 1, not ${value}`);
  return value;
}

/** Checks everything that can be checked before the store is open. */
export function checkOptions(options: unknown): CheckedOptions {
  checkKeys('map()', options, KNOWN);
  const given = options as Record<string, unknown>;
  refuseLater(given);
  flag('writable', given['writable']);
  const { offset = 0, byteLength, pageSize, name, signal } = given;
  checkCount('map(): offset', offset, 0);
  if (byteLength !== undefined) checkCount('map(): byteLength', byteLength, 1);
  if (pageSize !== undefined && typeof pageSize !== 'number') {
    throw wrongType(`map(): pageSize must be a number of bytes, not ${shown(pageSize)}`);
  }
  if (name !== undefined && (typeof name !== 'string' || name === '' || name.length > 200 || name.includes('\0'))) {
    throw wrongType(`map(): name must be a string of 1 to 200 characters, not ${shown(name)}`);
  }
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw wrongType(`map(): signal must be an AbortSignal, not ${shown(signal)}`);
  }
  return {
    offset,
    byteLength,
    pageSize,
    resident: resident(given['resident']),
    readahead: readahead(given['readahead']),
    pad: flag('pad', given['pad']),
    shared: flag('shared', given['shared']),
    backend: oneOf('backend', given['backend'], ['auto', 'signal', 'mprotect'], 'auto'),
    unreadable: oneOf('unreadable', given['unreadable'], ['abort', 'zero'], 'abort'),
    faultTimeoutMs: timeout(given['faultTimeoutMs']),
    name,
    signal,
  };
}

/** The page size of a segment: what was asked for, else what the store prefers, else the system's. */
export function choosePageSize(asked: number | undefined, preferred: number | undefined, system: number): number {
  const size = asked ?? preferred ?? system;
  const whose = asked === undefined ? "the store's pageSize" : 'map(): pageSize';
  const powerOfTwo = Number.isSafeInteger(size) && size > 0 && Number.isInteger(Math.log2(size));
  if (!powerOfTwo) throw outOfRange(`${whose} must be a power of two, not ${size}`);
  if (size < system) throw outOfRange(`${whose} must be at least the system's page size of ${system}, not ${size}`);
  if (size > LARGEST_PAGE) throw outOfRange(`${whose} must be at most 2 MiB (${LARGEST_PAGE}), not ${size}`);
  return size;
}

/** Throws if a budget cannot hold one page. */
export function checkBudget(limit: number, pageSize: number): void {
  if (limit >= pageSize) return;
  throw outOfRange(`map(): resident must hold at least one page of ${pageSize} bytes, not ${formatSize(limit)}`);
}
