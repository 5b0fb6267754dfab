/** Sizes of huge pages (hugetlb), as the kernel offers them. Any thread. */

import { readdirSync, readFileSync } from 'node:fs';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { UnsupportedError } from '../errors/unsupported-error.js';

const FOLDER = '/sys/kernel/mm/hugepages';

/** Bytes of each kind of huge page this kernel has, smallest first; empty without CONFIG_HUGETLBFS. */
export function hugePageSizes(): number[] {
  let names: string[];
  try {
    names = readdirSync(FOLDER);
  } catch {
    return [];
  }
  const sizes = names.map((name) => Number(/^hugepages-(\d+)kB$/.exec(name)?.[1] ?? 0) * 1024);
  return sizes.filter((size) => size > 0).sort((a, b) => a - b);
}

function defaultHugePageSize(): number | undefined {
  try {
    const [, kib] = /^Hugepagesize: +(\d+) kB$/m.exec(readFileSync('/proc/meminfo', 'utf8')) ?? [];
    return kib === undefined ? undefined : Number(kib) * 1024;
  } catch {
    return undefined;
  }
}

/**
 * The size that `hugePages` stands for: undefined for none, the kernel's default for `true`.
 * @throws TypeError, RangeError for a size the kernel does not have, UnsupportedError (missing: ['hugetlb']) for a kernel without huge pages.
 */
export function checkHugePages(who: string, hugePages: unknown): number | undefined {
  if (hugePages === undefined || hugePages === false) return undefined;
  if (hugePages !== true && typeof hugePages !== 'number') {
    throw wrongType(`${who}: hugePages must be true or a page size in bytes, not ${shown(hugePages)}`);
  }
  const sizes = hugePageSizes();
  const usual = defaultHugePageSize() ?? sizes[0];
  if (usual === undefined || sizes.length === 0) {
    throw new UnsupportedError(`${who}: this kernel has no huge pages (CONFIG_HUGETLBFS)`, undefined, ['hugetlb']);
  }
  if (hugePages === true) return usual;
  if (sizes.includes(hugePages)) return hugePages;
  throw outOfRange(
    `${who}: hugePages ${hugePages} is no size of this kernel's huge pages; it has ${sizes.join(', ')}`,
    'ERR_PAGEFAULT_PAGE_SIZE_UNAVAILABLE',
  );
}

/** What a want of huge pages means, for an ENOMEM. */
export function noHugePages(size: number): string {
  const pool = `${FOLDER}/hugepages-${size / 1024}kB/nr_hugepages`;
  return `there are not enough free huge pages of ${size} bytes; write a number to /proc/sys/vm/nr_hugepages (of the default size) or ${pool} as root`;
}

/** The bits that choose a size in the flags of mmap and memfd_create: log2 of it at bit 26. */
export function hugePageBits(size: number): number {
  return Math.log2(size) * 2 ** 26;
}
