/** What a `Pager` is given, checked. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { systemPageSize } from '../native/load.js';
import { checkKeys } from '../options/keys.js';

/** One past the last address there can be. */
export const ADDRESSES: bigint = 1n << 64n;

export interface PagerOptions {
  /**
   * How often it is looked whether a shutdown was requested, and whether the process's handlers of SIGBUS and SIGSEGV are still in place:
   * milliseconds from 10 to 3,600,000.
   * @default 1000
   */
  pollIntervalMs?: number;
  /** Addresses whose pages `prewarm` brings, in this order; see `bootCritical`. @default none */
  prewarm?: readonly bigint[];
  /** Bytes of a page of the host: a power of two from 4096 to 1 GiB. @default the system's, mostly 4096 */
  pageSize?: number;
  /**
   * The address of the source's first byte: addresses below it are refused.
   * @default for `uds` its `base`, else the lowest base of the regions at the time of the fault
   */
  start?: bigint;
  /**
   * How long a page may take before it is given up.
   * @default 30000
   */
  faultTimeoutMs?: number;
}

export interface CheckedPagerOptions {
  readonly pollIntervalMs: number;
  readonly prewarm: readonly bigint[];
  readonly pageSize: number;
  readonly start: bigint | undefined;
  readonly faultTimeoutMs: number;
}

const LARGEST_PAGE = 2 ** 30;

/** Throws unless `value` is an address: a bigint from 0 to 2^64 - 1. `what` begins the sentence. */
export function checkAddress(what: string, value: unknown): asserts value is bigint {
  if (typeof value !== 'bigint') throw wrongType(`${what} must be a bigint, not ${shown(value)}`);
  if (value < 0n || value >= ADDRESSES) throw outOfRange(`${what} must be from 0n to 2^64 - 1, not ${value}n`);
}

/** Throws unless `value` can be the size of a page. */
export function checkPageBytes(what: string, value: unknown): number {
  if (typeof value !== 'number') throw wrongType(`${what} must be a number of bytes, not ${shown(value)}`);
  if (Number.isSafeInteger(value) && value >= 4096 && value <= LARGEST_PAGE && Number.isInteger(Math.log2(value)))
    return value;
  throw outOfRange(`${what} must be a power of two from 4096 to 2^30, not ${value}`);
}

function milliseconds(name: string, value: unknown, least: number, most: number): number {
  if (typeof value !== 'number')
    throw wrongType(`Pager: ${name} must be a number of milliseconds, not ${shown(value)}`);
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value;
  throw outOfRange(`Pager: ${name} must be a whole number of milliseconds from ${least} to ${most}, not ${value}`);
}

export function checkPagerOptions(options: PagerOptions): CheckedPagerOptions {
  checkKeys('Pager', options, ['pollIntervalMs', 'prewarm', 'pageSize', 'start', 'faultTimeoutMs']);
  const { pollIntervalMs = 1000, prewarm = [], pageSize, start, faultTimeoutMs = 30_000 } = options;
  if (!Array.isArray(prewarm)) throw wrongType(`Pager: prewarm must be an array of addresses, not ${shown(prewarm)}`);
  for (const [i, address] of prewarm.entries()) checkAddress(`Pager: prewarm[${i}]`, address);
  if (start !== undefined) checkAddress('Pager: start', start);
  return {
    pollIntervalMs: milliseconds('pollIntervalMs', pollIntervalMs, 10, 3_600_000),
    prewarm: [...(prewarm as readonly bigint[])],
    pageSize: pageSize === undefined ? systemPageSize() : checkPageBytes('Pager: pageSize', pageSize),
    start,
    faultTimeoutMs: milliseconds('faultTimeoutMs', faultTimeoutMs, 1, 2 ** 31 - 1),
  };
}

/**
 * The pages that a guest needs before anything else, in this order, for the option `prewarm`: where the kernel's code begins, the stack of
 * its first processor, and the device tree.
 */
export function bootCritical(kernelText: bigint, stack: bigint, deviceTree: bigint): bigint[] {
  checkAddress('bootCritical(): kernelText', kernelText);
  checkAddress('bootCritical(): stack', stack);
  checkAddress('bootCritical(): deviceTree', deviceTree);
  return [kernelText, stack, deviceTree];
}
