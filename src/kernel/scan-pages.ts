/** PAGEMAP_SCAN (Linux 6.7): which pages are there, and which were written. Any thread. */

import { existsSync } from 'node:fs';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { PermissionError } from '../errors/permission-error.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { FlagSet } from './flags.js';
import { checkFlag } from './mapping-options.js';
import { PageScanError } from './page-scan-error.js';
import { checkPid } from './pid.js';
import { checkRange, type Range } from './range.js';
import { errnoName, refused } from './refusal.js';

/**
 * What is known of a page. 'written' is only meaningful in ranges that are registered for write-protection with a userfaultfd that has
 * 'wp-async' ('wp-allowed' says which are), and means "not write-protected": pages that were never there and pages that were dropped are
 * written too. 'file': of a file or shared memory. 'pfn-zero': the kernel's page of zeroes, read and never written. 'huge': mapped by a
 * huge page. 'soft-dirty': see soft-dirty.rst of the kernel. 'guard' (6.15): MADV_GUARD_INSTALL.
 */
export type PageCategory =
  | 'wp-allowed'
  | 'written'
  | 'file'
  | 'present'
  | 'swapped'
  | 'pfn-zero'
  | 'huge'
  | 'soft-dirty'
  | 'guard';

/** By bit. */
const CATEGORIES: readonly PageCategory[] = [
  'wp-allowed',
  'written',
  'file',
  'present',
  'swapped',
  'pfn-zero',
  'huge',
  'soft-dirty',
  'guard',
];

/** Neighbouring pages of the same categories. */
export interface PageSpan extends Range {
  /** Of the categories that were to be reported. */
  readonly categories: FlagSet<PageCategory>;
}

export interface ScanWrittenOptions {
  /** Write-protects what is reported, in the same step, so that the next scan reports what is written from now on. @default false */
  rearm?: boolean;
  /** Another process. @default this one */
  pid?: number;
}

export interface ScanPagesOptions extends ScanWrittenOptions {
  /** Pages in all of these. */
  all?: readonly PageCategory[];
  /** And in at least one of these. @default 'present' and 'swapped' where no filter is given */
  any?: readonly PageCategory[];
  /** And in none of these. */
  none?: readonly PageCategory[];
  /** Categories that spans tell, and are split by. @default those of `all` and `any` */
  report?: readonly PageCategory[];
  /** Stops after this many pages. @default no limit */
  limit?: number;
}

const WP_MATCHING = 1n;
const CHECK_WPASYNC = 2n;
const REGIONS = 256;
const WORDS = 3;

/** Sets are asked for with the same bits over and over. */
const sets = new Map<bigint, FlagSet<PageCategory>>();

function setOf(bits: bigint): FlagSet<PageCategory> {
  let set = sets.get(bits);
  if (set === undefined) {
    set = new FlagSet<PageCategory>(bits, CATEGORIES);
    sets.set(bits, set);
  }
  return set;
}

function maskOf(who: string, name: string, categories: unknown): bigint {
  if (categories === undefined) return 0n;
  if (!Array.isArray(categories)) {
    throw wrongType(`${who}: ${name} must be an array of categories, not ${shown(categories)}`);
  }
  let mask = 0n;
  for (const category of categories as unknown[]) {
    const bit = CATEGORIES.indexOf(category as PageCategory);
    if (bit < 0) throw wrongType(`${who}: ${name} may hold ${CATEGORIES.join(', ')}, not ${shown(category)}`);
    mask |= 1n << BigInt(bit);
  }
  return mask;
}

interface Query {
  start: bigint;
  end: bigint;
  flags: bigint;
  inverted: bigint;
  mask: bigint;
  anyOf: bigint;
  report: bigint;
  /** Pages; 0: no limit. */
  limit: number;
}

function limitOf(who: string, value: unknown): number {
  if (value === undefined) return 0;
  if (typeof value !== 'number') throw wrongType(`${who}: limit must be a number, not ${shown(value)}`);
  if (Number.isSafeInteger(value) && value > 0) return value;
  throw outOfRange(`${who}: limit must be a whole number above 0, not ${value}`);
}

function queryOf(who: string, range: Range, options: ScanPagesOptions): Query {
  const all = maskOf(who, 'all', options.all);
  const none = maskOf(who, 'none', options.none);
  const unfiltered = options.all === undefined && options.any === undefined && options.none === undefined;
  const anyOf = maskOf(who, 'any', unfiltered ? ['present', 'swapped'] : options.any);
  const twice = none & (all | anyOf);
  if (twice !== 0n) throw outOfRange(`${who}: no page can be in and not in ${setOf(twice)}`);
  return {
    start: range.address,
    end: range.address + BigInt(range.byteLength),
    flags: checkFlag(who, 'rearm', options.rearm, false) ? WP_MATCHING | CHECK_WPASYNC : 0n,
    inverted: none,
    mask: all | none,
    anyOf,
    report: options.report === undefined ? all | anyOf : maskOf(who, 'report', options.report),
    limit: limitOf(who, options.limit),
  };
}

function unsupported(who: string): UnsupportedError {
  return new UnsupportedError(`${who}: this kernel has no PAGEMAP_SCAN; it came with Linux 6.7`, undefined, [
    'pagemap-scan',
  ]);
}

function openPagemap(who: string, pid: number): number {
  const fd = native().pagemapOpen(pid);
  if (fd >= 0) return fd;
  const path = `/proc/${pid === 0 ? 'self' : pid}/pagemap`;
  const name = errnoName(fd);
  if (name === 'EACCES' || name === 'EPERM') {
    const whose = pid === 0 ? 'this process is' : `process ${pid} belongs to another user or is`;
    throw new PermissionError(
      `${who}: ${path} may not be opened (${name}): ${whose} not dumpable (prctl PR_SET_DUMPABLE); CAP_SYS_PTRACE allows it all the same`,
      { errno: -fd, syscall: 'open' },
    );
  }
  if (name === 'ENOENT' && existsSync(`/proc/${pid === 0 ? 'self' : pid}/maps`)) throw unsupported(who);
  throw refused(`${who}: ${path} cannot be opened`, fd, 'open', {
    ENOENT: pid === 0 ? '/proc is not mounted' : 'there is no such process',
    ESRCH: 'the process has ended',
  });
}

/** Adds a region, to the last span where it goes on with it. */
function append(spans: PageSpan[], start: bigint, byteLength: number, bits: bigint): void {
  const last = spans.at(-1);
  if (last !== undefined && last.categories.bits === bits && last.address + BigInt(last.byteLength) === start) {
    spans[spans.length - 1] = { ...last, byteLength: last.byteLength + byteLength };
  } else {
    spans.push({ address: start, byteLength, categories: setOf(bits) });
  }
}

function scanError(who: string, result: number, spans: readonly PageSpan[]): Error {
  const name = errnoName(result);
  if (name === 'ENOTTY') return unsupported(who);
  const { message } = refused(`${who}: the scan is refused`, result, 'PAGEMAP_SCAN', {
    EPERM:
      "with rearm, all of the range must be registered for 'write-protect' with a userfaultfd that has the feature 'wp-async'; some of it is not",
    EINVAL: 'this kernel does not know one of the categories',
    EFAULT: 'the range is not in user space',
    ESRCH: 'the process has ended',
  });
  return new PageScanError(message, -result, spans);
}

function scan(who: string, fd: number, query: Query): PageSpan[] {
  const { start, end, flags, inverted, mask, anyOf, report, limit } = query;
  const regions = new BigUint64Array(REGIONS * WORDS);
  const asked = BigUint64Array.of(start, end, flags, inverted, mask, anyOf, report, BigInt(limit));
  const page = native().systemPageSize();
  const spans: PageSpan[] = [];
  let left = limit;
  for (let at = start; at < end; at = asked[0] ?? end) {
    asked[7] = BigInt(left);
    const found = native().pagemapScan(fd, asked, regions);
    const most = (found < 0 ? REGIONS : found) * WORDS;
    for (let i = 0; i < most; i += WORDS) {
      const from = regions[i] ?? 0n;
      const to = regions[i + 1] ?? 0n;
      if (to === 0n) break; // after a failure: what was found before it
      const byteLength = Number(to - from);
      append(spans, from, byteLength, regions[i + 2] ?? 0n);
      left -= byteLength / page;
    }
    if (found < 0) throw scanError(who, found, spans);
    if ((limit > 0 && left <= 0) || (asked[0] ?? end) <= at) break;
  }
  return spans;
}

function scanRange(who: string, range: Range, options: ScanPagesOptions): PageSpan[] {
  checkRange(who, range);
  const query = queryOf(who, range, options);
  const { pid } = options;
  if (pid !== undefined) checkPid(who, pid);
  const fd = openPagemap(who, pid ?? 0);
  try {
    return scan(who, fd, query);
  } finally {
    native().descriptorClose(fd);
  }
}

/**
 * The pages of a range that are in some categories, as spans in the order of their addresses. Parts of the range where nothing is
 * mapped have no pages. Linux 6.7. No privilege for this process as long as it is dumpable; for another one as ptrace(2) needs it.
 *
 * `rearm` write-protects what is reported in the same step, so that no write is between the look and the protection. Ask for 'present' or
 * 'swapped' with it: 'written' alone also arms pages that are not there, which costs page tables (2 MiB a GiB).
 * Writes through another mapping, through write(2) on the memory object, or by devices (O_DIRECT) are not seen.
 *
 * @throws TypeError, RangeError; UnsupportedError (missing: ['pagemap-scan']); PermissionError; PageScanError with errno EPERM (rearm outside
 * of what a userfaultfd with 'wp-async' write-protects) and the spans that were found, and re-armed, before.
 */
export function scanPages(range: Range, options: ScanPagesOptions = {}): PageSpan[] {
  const who = 'scanPages()';
  checkKeys(who, options, ['all', 'any', 'none', 'report', 'rearm', 'limit', 'pid']);
  return scanRange(who, range, options);
}

/**
 * The pages that were written since the range was write-protected or scanned with `rearm`, and are there: in memory or swapped out. The
 * mask that does not report pages that were never touched, were dropped, or only read as zero. A page that was written and
 * then dropped (MADV_DONTNEED) is not reported either. Memory that is not registered for write-protection with
 * 'wp-async' is reported as written, all that is there of it. Errors as {@link scanPages}.
 *
 * For private memory. Of files and shared memory, pages that the kernel took out of the page table under memory pressure are not "there",
 * written or not: `scanPages(range, { all: ['written'] })` reports too much there instead of too little.
 */
export function scanWritten(range: Range, options: ScanWrittenOptions = {}): PageSpan[] {
  const who = 'scanWritten()';
  checkKeys(who, options, ['rearm', 'pid']);
  return scanRange(who, range, {
    ...options,
    all: ['written'],
    any: ['present', 'swapped'],
    none: ['pfn-zero'],
    report: ['written'],
  });
}
