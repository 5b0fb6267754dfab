/** Looks at memory that a child wants to hand over, and takes it or says why not. Everything a hostile child could send is refused here. */

import { close } from 'node:fs';
import { GuestError } from '../errors/guest-error.js';
import { reasonOf } from '../errors/reason.js';
import { hugePageSizes } from '../kernel/huge-pages.js';
import { Uffd } from '../kernel/index.js';
import { pageSize as systemPageSize } from '../kernel/range.js';
import { REGION, type RegionMessage } from './protocol.js';
import type { GuestRegion, RegionParts } from './region.js';
import type { GuestSource } from './source.js';
import type { Policy } from './strategy.js';

const ERRNO = { EBADF: 9, EEXIST: 17, EINVAL: 22, ENOSPC: 28, ERANGE: 34, EOPNOTSUPP: 95 } as const;
/** Regions of one process. */
const MOST_REGIONS = 1024;
const MOST_PAGES = 2 ** 32;
/** Of user memory, on every architecture. */
const END_OF_ADDRESSES = 2n ** 56n;

export interface Admitting {
  readonly regions: readonly GuestRegion[];
  readonly source: GuestSource;
  readonly policy: Policy;
  readonly pid: number;
}

export type Admitted = { readonly parts: RegionParts } | { readonly errno: number; readonly error: GuestError };

/** Takes over `fd`; it is closed where the memory is refused. */
export function admit(message: RegionMessage, fd: number, admitting: Admitting): Admitted {
  const refuse = (errno: number, why: string, cause?: unknown): Admitted => ({
    errno,
    error: new GuestError(
      'ERR_PAGEFAULT_GUEST_HANDSHAKE',
      `the memory of process ${admitting.pid} is refused: ${why}`,
      {
        pid: admitting.pid,
        errno,
        cause,
      },
    ),
  });
  const wrong = wrongWith(message, admitting);
  if (wrong !== undefined) {
    closeLater(fd);
    return refuse(wrong.errno, wrong.why);
  }
  let uffd: Uffd;
  try {
    uffd = Uffd.fromFd(fd);
  } catch (error) {
    closeLater(fd);
    return refuse(ERRNO.EBADF, reasonOf(error), error);
  }
  if (!uffd.nonBlocking) {
    uffd.close();
    return refuse(ERRNO.EINVAL, 'its userfaultfd blocks, and would stop the pager');
  }
  const { address, byteLength, pageSize, storeOffset, memory } = message;
  const writeProtect = (message.flags & REGION.writeProtect) !== 0;
  const index = admitting.regions.length;
  return { parts: { index, uffd, address, byteLength, pageSize, storeOffset, memory, writeProtect } };
}

function wrongWith(message: RegionMessage, admitting: Admitting): { errno: number; why: string } | undefined {
  const { address, byteLength, pageSize, storeOffset } = message;
  const { source, policy, regions } = admitting;
  if (!isPageSize(message, source)) {
    return { errno: ERRNO.EINVAL, why: `its pages have ${pageSize} bytes, neither the system's nor the store's size` };
  }
  const end = address + BigInt(Number.isSafeInteger(byteLength) ? byteLength : 0);
  if (!Number.isSafeInteger(byteLength) || byteLength <= 0 || byteLength % pageSize !== 0 || end > END_OF_ADDRESSES) {
    return {
      errno: ERRNO.EINVAL,
      why: `${byteLength} bytes at 0x${address.toString(16)} are no whole number of pages`,
    };
  }
  if (address % BigInt(pageSize) !== 0n)
    return { errno: ERRNO.EINVAL, why: `0x${address.toString(16)} is not page-aligned` };
  if (byteLength / pageSize > MOST_PAGES) return { errno: ERRNO.ENOSPC, why: 'it has more than 2^32 pages' };
  const stored = Math.ceil(source.byteLength / pageSize) * pageSize;
  if (!Number.isSafeInteger(storeOffset) || storeOffset % pageSize !== 0 || storeOffset + byteLength > stored) {
    const asked = `bytes ${storeOffset} to ${storeOffset + byteLength}`;
    return { errno: ERRNO.ERANGE, why: `it wants ${asked} of a store of ${source.byteLength}` };
  }
  for (const region of regions) {
    if (region.overlaps(address, byteLength)) {
      return { errno: ERRNO.EEXIST, why: 'it overlaps memory that was handed over before' };
    }
  }
  if (regions.filter((region) => !region.over).length >= MOST_REGIONS)
    return { errno: ERRNO.ENOSPC, why: `there are ${MOST_REGIONS} regions already` };
  if (policy.strategy === 'budget' && (message.flags & REGION.writeProtect) === 0) {
    return {
      errno: ERRNO.EOPNOTSUPP,
      why: 'a budget needs write-protection, or writes would be lost; the kernel has none for this memory',
    };
  }
  return undefined;
}

/** The kernel's own of the memory, or the one the store wishes for. */
function isPageSize({ pageSize, memory }: RegionMessage, source: GuestSource): boolean {
  if (pageSize === systemPageSize()) return true;
  if (memory === 'hugetlb') return hugePageSizes().includes(pageSize);
  return pageSize === source.pageSize && pageSize % systemPageSize() === 0;
}

/** Of the kind that a hostile child has chosen (a socket that lingers, a file of its own file system), it may take long. */
function closeLater(fd: number): void {
  close(fd, () => {});
}
