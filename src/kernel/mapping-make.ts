/** Making mappings: the call of mmap(2) that all kinds share, anonymous memory, heap memory. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import { native, systemPageSize } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { checkHugePages, hugePageBits, noHugePages } from './huge-pages.js';
import type { MappingKind } from './mapping.js';
import {
  adviceNumber,
  checkAddress,
  checkFlag,
  checkPages,
  type Protection,
  protectionBits,
} from './mapping-options.js';
import { errnoName, type Reasons, refused } from './refusal.js';

/** mmap(2). */
export const MAP = {
  shared: 1,
  private: 2,
  fixed: 0x10,
  anonymous: 0x20,
  noReserve: 0x4000,
  populate: 0x8000,
  hugetlb: 0x40000,
  fixedNoReplace: 0x100000,
} as const;

export interface AnonymousOptions {
  /** @default 'read-write' */
  protection?: Protection;
  /** Shared with processes that are forked later; not with others. @default false */
  shared?: boolean;
  /** Exactly there, and never over something that is mapped. A multiple of the page size. @default the kernel chooses */
  address?: bigint;
  /** Makes the pages present at once. Pages that cannot be had are left missing. @default false */
  populate?: boolean;
  /** Counts the memory against vm.overcommit_memory. @default true */
  reserve?: boolean;
  /** Huge pages of hugetlb: true for the kernel's default size, or a size in bytes. They must have been set aside. @default false */
  hugePages?: boolean | number;
  /** false: a forked child does not have it (MADV_DONTFORK). @default true */
  inherited?: boolean;
}

export interface HeapOptions {
  /** Where the pages come from. @default 'malloc' */
  from?: 'malloc' | 'brk';
}

/** A mapping that was made. */
export interface Mapped {
  address: bigint;
  byteLength: number;
  pageSize: number;
  kind: MappingKind;
  protection: Protection;
  inherited: boolean;
  /** Gives the memory back, or throws and has changed nothing. */
  release: (address: bigint, byteLength: number) => void;
}

/** One call of mmap. */
export interface MapCall {
  address: bigint;
  byteLength: number;
  protection: number;
  flags: number;
  fd: number;
  offset: number;
}

function enoughMemory(byteLength: number, hugePage: number | undefined): string {
  if (hugePage !== undefined) return noHugePages(hugePage);
  return `there is no room for ${byteLength} bytes: the address space, RLIMIT_AS, vm.overcommit_memory (which reserve: false avoids) or vm.max_map_count stands against it`;
}

/** mmap(2), or a SystemError with a sentence. */
export function mapMemory(who: string, call: MapCall, hugePage: number | undefined, reasons: Reasons = {}): bigint {
  const out = new BigUint64Array(1);
  const { address, byteLength, protection, flags, fd, offset } = call;
  const result = native().memoryMap(address, byteLength, protection, flags, fd, offset, out);
  if (result === 0) return out[0] ?? 0n;
  const place = address === 0n ? '' : ` at 0x${address.toString(16)}`;
  throw refused(`${who}: ${byteLength} bytes cannot be mapped${place}`, result, 'mmap', {
    ENOMEM: enoughMemory(byteLength, hugePage),
    EEXIST: 'something is mapped there already',
    EPERM: 'the address is below vm.mmap_min_addr, or a seal or a mount option forbids the protection',
    EACCES: 'the descriptor is not open in a way that allows this protection',
    ENODEV: 'its file system cannot map files',
    EOVERFLOW: 'offset and length together are more than the kernel counts',
    EAGAIN: 'the file or the memory is locked, see RLIMIT_MEMLOCK',
    ...reasons,
  });
}

/** munmap(2). */
export function unmapMemory(address: bigint, byteLength: number): void {
  const result = native().memoryUnmap(address, byteLength);
  if (result < 0) {
    throw refused(`Mapping.unmap(): ${byteLength} bytes cannot be unmapped`, result, 'munmap', {
      ENOMEM: 'it would leave more mappings than vm.max_map_count allows',
    });
  }
}

/** New memory. */
export function mapAnonymous(who: string, byteLength: unknown, options: AnonymousOptions): Mapped {
  checkKeys(who, options, ['protection', 'shared', 'address', 'populate', 'reserve', 'hugePages', 'inherited']);
  const { protection = 'read-write', address } = options;
  const bits = protectionBits(who, protection);
  const hugePage = checkHugePages(who, options.hugePages);
  const pageSize = hugePage ?? systemPageSize();
  const length = checkPages(who, 'byteLength', byteLength, pageSize, 1);
  const inherited = checkFlag(who, 'inherited', options.inherited, true);
  let flags: number = MAP.anonymous;
  flags += checkFlag(who, 'shared', options.shared, false) ? MAP.shared : MAP.private;
  if (checkFlag(who, 'populate', options.populate, false)) flags += MAP.populate;
  if (!checkFlag(who, 'reserve', options.reserve, true)) flags += MAP.noReserve;
  if (hugePage !== undefined) flags += MAP.hugetlb + hugePageBits(hugePage);
  if (address !== undefined) flags += MAP.fixedNoReplace;
  const at = address === undefined ? 0n : checkAddress(who, address, length, pageSize);
  const call = { address: at, byteLength: length, protection: bits, flags, fd: -1, offset: 0 };
  const mapped = mapMemory(who, call, hugePage);
  if (!inherited) native().memoryAdvise(mapped, length, adviceNumber(who, 'dontfork'));
  return {
    address: mapped,
    byteLength: length,
    pageSize,
    kind: 'anonymous',
    protection,
    inherited,
    release: unmapMemory,
  };
}

function freeMemory(address: bigint, byteLength: number): void {
  const result = native().memoryFree(address, byteLength);
  if (result < 0) throw refused('Mapping.unmap(): the pages cannot be given back to malloc', result, 'mprotect');
}

/** Memory behind the program break stays: only what is in it goes. */
function dropMemory(address: bigint, byteLength: number): void {
  native().memoryAdvise(address, byteLength, adviceNumber('Mapping.unmap()', 'dontneed'));
}

/** Pages of the heap. */
export function mapHeap(who: string, byteLength: unknown, options: HeapOptions): Mapped {
  checkKeys(who, options, ['from']);
  const { from = 'malloc' } = options;
  if (from !== 'malloc' && from !== 'brk')
    throw wrongType(`${who}: from must be 'malloc' or 'brk', not ${shown(from)}`);
  const pageSize = systemPageSize();
  const length = checkPages(who, 'byteLength', byteLength, pageSize, 1);
  if (length > 2 ** 47) throw outOfRange(`${who}: byteLength ${length} is more than a process has addresses for`);
  const out = new BigUint64Array(1);
  const result = from === 'brk' ? native().memoryGrowBreak(length, out) : native().memoryFromMalloc(length, out);
  if (result < 0) {
    if (errnoName(result) === 'ENOSYS') {
      throw new UnsupportedError(`${who}: moving the program break needs glibc`, undefined, ['brk']);
    }
    const inTheWay =
      from === 'brk'
        ? ', or something else is mapped behind it: V8 may have put code there, and not in the next process'
        : '';
    throw refused(`${who}: ${from} gives no ${length} bytes`, result, from === 'brk' ? 'brk' : 'malloc', {
      ENOMEM: `there is no memory for it, or RLIMIT_DATA stands against it${inTheWay}`,
      EBUSY: 'another thread keeps moving the program break',
    });
  }
  const release = from === 'brk' ? dropMemory : freeMemory;
  return {
    address: out[0] ?? 0n,
    byteLength: length,
    pageSize,
    kind: 'heap',
    protection: 'read-write',
    inherited: true,
    release,
  };
}
