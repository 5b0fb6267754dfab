/** The child's side of `spawnPaged`, for Node: memory of this process whose pages the parent brings. Any thread of the child. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { checkHugePages } from '../kernel/huge-pages.js';
import { Mapping } from '../kernel/mapping.js';
import { checkBytes } from '../kernel/mapping-options.js';
import { Memfd } from '../kernel/memfd.js';
import { bufferOver } from '../kernel/memory-buffer.js';
import type { Range } from '../kernel/range.js';
import { GUEST_STAGE } from '../native/kernel/guest.js';
import { native, systemPageSize } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { connectError, pageError } from './paged-memory-error.js';

/** What paged memory is to this process: fresh memory, memory of the heap, shared memory, or huge pages. */
export type PagedMemoryKind = 'mmap' | 'malloc' | 'brk' | 'shm' | 'hugetlb';

export interface PagedMemoryOptions {
  /** What the memory is made of. 'hugetlb' needs huge pages that were set aside (nr_hugepages) and Linux 5.18. @default 'mmap' */
  memory?: PagedMemoryKind;
  /** Where in the store the memory begins, in bytes: a multiple of the page size. @default 0 */
  storeOffset?: number;
}

/** Memory whose pages come from the parent's store. It lives as long as the process. */
export interface PagedMemory extends Range {
  /** The memory. A touch of a page that is missing stops this thread until the parent has brought it. */
  readonly buffer: ArrayBuffer;
  /** Of the first byte: for the same memory in another thread, `Mapping.bufferAt`. */
  readonly address: bigint;
  /** Bytes of `buffer`. */
  readonly byteLength: number;
  /** Bytes that come at once, at the least. */
  readonly pageSize: number;
  readonly memory: PagedMemoryKind;
  /**
   * True where the kernel itself cannot wait for a page, for want of privilege: a system call that is handed a part of
   * `buffer` (`fs.write`, a socket) then fails with EFAULT where a page is missing. Touch the pages first, or copy them.
   */
  readonly userModeOnly: boolean;
}

/** The flags of the header, by kind. */
const KINDS: Readonly<Record<PagedMemoryKind, number>> = { mmap: 1, malloc: 2, brk: 3, shm: 4, hugetlb: 5 };
const HUGE_SHIFT = 26;
const WHO = 'pagedMemory()';

/** True in a process that `spawnPaged` started: `pagedMemory` can work. Never throws. */
export function isPaged(): boolean {
  try {
    return native().guestIsExpected() || native().guestConnect(new Float64Array(2)) === 0;
  } catch {
    return false; // no core for this platform
  }
}

interface Connection {
  storeLength: number;
  pageSize: number;
}

function connect(): Connection {
  const out = new Float64Array(2);
  const result = native().guestConnect(out);
  delete process.env['PAGEFAULT_GUEST_FD']; // a Worker's is a copy, which its own children would get
  if (result < 0) throw connectError(result);
  const [storeLength = 0, pageSize = 0] = out;
  return { storeLength, pageSize };
}

function makeMemory(kind: PagedMemoryKind, byteLength: number): Mapping {
  switch (kind) {
    case 'mmap':
      return Mapping.anonymous(byteLength, { reserve: false });
    case 'malloc':
    case 'brk':
      return Mapping.heap(byteLength, { from: kind });
    case 'hugetlb':
      return Mapping.anonymous(byteLength, { hugePages: true });
    case 'shm': {
      const memfd = Memfd.create('pagefault guest', { byteLength });
      try {
        return Mapping.memfd(memfd);
      } finally {
        memfd.close(); // the mapping keeps it
      }
    }
  }
}

/** What is asked for, checked: bytes, kind, and the offset in the store. */
function checkRequest(
  byteLength: unknown,
  options: PagedMemoryOptions,
): { kind: PagedMemoryKind; storeOffset: number } {
  checkKeys(WHO, options, ['memory', 'storeOffset']);
  const { memory = 'mmap' } = options;
  if (typeof memory !== 'string' || !Object.hasOwn(KINDS, memory)) {
    const known = Object.keys(KINDS).map((kind) => `'${kind}'`);
    throw wrongType(`${WHO}: memory must be one of ${known.join(', ')}, not ${shown(memory)}`);
  }
  const storeOffset = checkBytes(WHO, 'storeOffset', options.storeOffset ?? 0, 0);
  if (storeOffset % systemPageSize() !== 0) {
    throw outOfRange(
      `${WHO}: storeOffset must be a multiple of the page size, ${systemPageSize()} bytes, not ${storeOffset}`,
    );
  }
  if (byteLength !== undefined) checkBytes(WHO, 'byteLength', byteLength, 1);
  return { kind: memory, storeOffset };
}

/** From `storeOffset` to the end of the store, where no length is given. */
function restOfStore(storeLength: number, storeOffset: number): number {
  if (storeLength === 0) throw outOfRange(`${WHO}: the store does not say how long it is: give byteLength`);
  if (storeOffset >= storeLength) {
    throw outOfRange(`${WHO}: storeOffset ${storeOffset} is not below the ${storeLength} bytes of the store`);
  }
  return storeLength - storeOffset;
}

/** The page size that the pager wishes for, where the part of the store begins with such a page. */
function pageSizeAt(storeOffset: number, wished: number): number {
  return storeOffset % wished === 0 ? wished : systemPageSize();
}

/** Hands a part of the mapping to the pager, or gives the mapping back and throws. */
function handOver(
  mapping: Mapping,
  part: { address: bigint; byteLength: number; whole: number },
  storeOffset: number,
  flags: number,
): { buffer: ArrayBuffer; userModeOnly: boolean } {
  const { address, byteLength, whole } = part;
  const out = new Float64Array(2);
  let buffer: ArrayBuffer | undefined;
  try {
    buffer = bufferOver(WHO, address, byteLength); // before the pager hears of it: the runtime may not hold so long a buffer
    const result = native().guestPage(address, whole, storeOffset, flags, out);
    const [stage = 0, userModeOnly = 0] = out;
    if (result === 0) return { buffer, userModeOnly: userModeOnly === 1 };
    throw pageError(
      result,
      GUEST_STAGE[stage] ?? 'arguments',
      `memory of ${whole} bytes at store offset ${storeOffset}`,
    );
  } catch (error) {
    if (buffer !== undefined) native().memoryDetach(buffer);
    mapping.protect('read-write'); // it may have been closed, and the heap takes it back
    mapping.unmap();
    throw error;
  }
}

/**
 * Memory of this process whose pages come from the store of the parent, which started it with `spawnPaged`. The first touch of a page
 * stops the thread that touches it until the parent has brought the page; the event loop of this thread stands still meanwhile.
 * May be called several times, in Workers too; this call itself waits for the parent's answer.
 *
 * When the parent ends, this process is killed (SIGKILL) with a sentence on stderr: what is missing must not read as zeroes.
 * Child processes have none of the memory. Linux 4.11 (huge pages 5.18); no privilege, but see {@link PagedMemory.userModeOnly}.
 *
 * @param byteLength Bytes; the memory is rounded up to whole pages. Default: the store from `storeOffset` to its end.
 * @throws GuestError ERR_PAGEFAULT_GUEST_HANDSHAKE: this process was not started by `spawnPaged`, or the parent refused (with errno);
 * ERR_PAGEFAULT_TIMEOUT, ERR_PAGEFAULT_GUEST_GONE. PermissionError, UnsupportedError: userfaultfd is forbidden, or not there. RangeError;
 * SystemError, e.g. ENOMEM without huge pages (nr_hugepages).
 * @example
 * const { buffer } = pagedMemory();
 * console.log(new Float32Array(buffer)[123_456]);
 */
export function pagedMemory(byteLength?: number, options: PagedMemoryOptions = {}): PagedMemory {
  const { kind, storeOffset } = checkRequest(byteLength, options);
  const connection = connect();
  const length = byteLength ?? restOfStore(connection.storeLength, storeOffset);
  const huge = kind === 'hugetlb' ? checkHugePages(WHO, true) : undefined;
  const pageSize = huge ?? pageSizeAt(storeOffset, connection.pageSize);
  if (storeOffset % pageSize !== 0) {
    throw outOfRange(`${WHO}: storeOffset must be a multiple of the huge page, ${pageSize} bytes, not ${storeOffset}`);
  }
  const whole = Math.ceil(length / pageSize) * pageSize;
  // The pager may wish for larger pages than the system's: then the memory begins at a multiple of theirs.
  const spare = pageSize - (huge ?? systemPageSize());
  const mapping = makeMemory(kind, whole + spare);
  const unit = BigInt(pageSize);
  const address = ((mapping.address + unit - 1n) / unit) * unit;
  const flags = KINDS[kind] + (huge === undefined ? 0 : Math.log2(huge) * 2 ** HUGE_SHIFT);
  const paged = handOver(mapping, { address, byteLength: length, whole }, storeOffset, flags);
  return Object.freeze({ ...paged, address, byteLength: length, pageSize, memory: kind });
}
