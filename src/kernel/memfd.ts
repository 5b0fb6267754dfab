/** Memory objects: memfd_create(2), seals, holes. Any thread. */

import { fstatSync, ftruncateSync, readSync, writeSync } from 'node:fs';
import { types } from 'node:util';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import { native, systemPageSize } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { checkFd, closedError, descriptorTarget, wrongDescriptor } from './descriptor.js';
import { FlagSet } from './flags.js';
import { checkHugePages, hugePageBits, noHugePages } from './huge-pages.js';
import { checkBytes, checkFlag, checkPages } from './mapping-options.js';
import { errnoName, fromFs, type Reasons, refused } from './refusal.js';

/**
 * What a seal forbids, for everyone and for ever: 'seal' further seals, 'shrink' and 'grow' a change of size, 'write' every write (refused
 * with EBUSY while a writable shared mapping exists), 'future-write' (5.1) all writes but those through mappings that exist, 'exec'
 * (6.3) a change of the execute permission.
 */
export type Seal = 'seal' | 'shrink' | 'grow' | 'write' | 'future-write' | 'exec';

/** By bit. */
const SEALS: readonly Seal[] = ['seal', 'shrink', 'grow', 'write', 'future-write', 'exec'];

/** Those that not every kernel has. */
const RECENT: readonly Seal[] = ['future-write', 'exec'];

const MFD = { closeOnExec: 1, allowSealing: 2, hugetlb: 4, noExecSeal: 8 } as const;
const NAME_LIMIT = 249;
/** The runtime takes lengths below 2^31 in one call. */
const STEP = 2 ** 30;

export interface MemfdOptions {
  /** @default 0 */
  byteLength?: number;
  /** Seals can be added; without it the object has the seal 'seal'. @default true */
  sealable?: boolean;
  /** Huge pages of hugetlb (4.14; sealable 4.16): true for the kernel's default size, or a size in bytes. @default false */
  hugePages?: boolean | number;
  /** @default true */
  closeOnExec?: boolean;
}

/** What a seal that is set says against a write, a shorter or longer size: for the sentence of an EPERM. */
function sealedAgainst(seals: FlagSet<Seal>, candidates: readonly Seal[]): string {
  const found = candidates.filter((seal) => seals.has(seal)).map((seal) => `'${seal}'`);
  return found.length === 0 ? 'a seal forbids it' : `the seal ${found.join(' and ')} forbids it`;
}

/**
 * A memory object: a file that is nowhere but in memory, and lives as long as a descriptor or a mapping of it. Its descriptor can be
 * sent to another process, which then shares the memory. Linux 3.17, no privilege. Never closed by the garbage collector.
 * A system with vm.memfd_noexec gives it the seal 'exec'.
 *
 * @example
 * const memfd = Memfd.create('guest memory', { byteLength: 2 ** 20 });
 * const memory = Mapping.memfd(memfd);
 */
export class Memfd implements Disposable {
  readonly #fd: number;
  #closed = false;

  private constructor(fd: number) {
    this.#fd = fd;
  }

  /**
   * A new one. `name` is for /proc alone: at most 249 bytes, without a zero byte.
   * @throws TypeError, RangeError; UnsupportedError (missing: ['hugetlb']); SystemError EMFILE, ENFILE (too many descriptors), ENOMEM, EPERM
   * (huge pages without CAP_IPC_LOCK or a group in vm.hugetlb_shm_group, on some kernels).
   */
  static create(name: string, options: MemfdOptions = {}): Memfd {
    const who = 'Memfd.create()';
    if (typeof name !== 'string') throw wrongType(`${who}: name must be a string, not ${shown(name)}`);
    if (name.includes('\0')) throw wrongType(`${who}: name must not contain a zero byte`);
    const length = Buffer.byteLength(name);
    if (length > NAME_LIMIT) throw outOfRange(`${who}: name has ${length} bytes; the kernel takes ${NAME_LIMIT}`);
    checkKeys(who, options, ['byteLength', 'sealable', 'hugePages', 'closeOnExec']);
    const hugePage = checkHugePages(who, options.hugePages);
    const { byteLength = 0 } = options;
    if (hugePage === undefined) checkBytes(who, 'byteLength', byteLength, 0);
    else checkPages(who, 'byteLength', byteLength, hugePage, 0);
    let flags = checkFlag(who, 'closeOnExec', options.closeOnExec, true) ? MFD.closeOnExec : 0;
    const sealable = checkFlag(who, 'sealable', options.sealable, true);
    if (sealable) flags += MFD.allowSealing;
    if (hugePage !== undefined) flags += MFD.hugetlb + hugePageBits(hugePage);
    let fd = native().memfdCreate(name, flags);
    // vm.memfd_noexec = 2 (6.3) refuses what is not sealed against execution.
    if (fd < 0 && errnoName(fd) === 'EACCES') fd = native().memfdCreate(name, flags + MFD.noExecSeal);
    if (fd < 0) {
      throw refused(`${who}: a memory object is refused`, fd, 'memfd_create', {
        EPERM: 'huge pages need CAP_IPC_LOCK or a group that vm.hugetlb_shm_group names',
        ENODEV: 'this kernel has no huge pages of this size',
        ...(hugePage === undefined ? {} : { ENOMEM: noHugePages(hugePage) }),
      });
    }
    // With vm.memfd_noexec every object can be sealed. Refused where it is sealed against seals anyway.
    if (!sealable) native().memfdAddSeals(fd, 1 << SEALS.indexOf('seal'));
    const memfd = new Memfd(fd);
    if (byteLength === 0) return memfd;
    try {
      memfd.resize(byteLength);
    } catch (error) {
      memfd.close();
      throw error;
    }
    return memfd;
  }

  /**
   * Takes a descriptor over: it is closed with this object.
   * @throws DescriptorError for what is no memory object; then it stays the caller's.
   */
  static fromFd(fd: number): Memfd {
    checkFd('Memfd.fromFd()', fd);
    // Files of a tmpfs have seals too, but a name.
    const target = descriptorTarget(fd);
    if (native().memfdSeals(fd) < 0 || (target !== undefined && !target.startsWith('/memfd:'))) {
      throw wrongDescriptor('Memfd.fromFd()', fd, 'a memory object of memfd_create');
    }
    return new Memfd(fd);
  }

  /** The descriptor. @throws PagefaultError ERR_PAGEFAULT_CLOSED. */
  get fd(): number {
    if (this.#closed) throw closedError('Memfd');
    return this.#fd;
  }

  get closed(): boolean {
    return this.#closed;
  }

  get byteLength(): number {
    const { fd } = this;
    return fromFs('Memfd.byteLength', () => fstatSync(fd)).size;
  }

  /** Bytes of memory it takes: pages that were written and not punched out. */
  get allocatedBytes(): number {
    const { fd } = this;
    return fromFs('Memfd.allocatedBytes', () => fstatSync(fd)).blocks * 512;
  }

  /** Bytes of its pages: the system's page size, or that of its huge pages. */
  get pageSize(): number {
    return memfdPageSize(this.fd);
  }

  /**
   * Longer: the new part reads zero. Shorter: what is behind the end is gone, and touching a mapping of it ends the process with SIGBUS.
   * @throws RangeError; SystemError EPERM (the seal 'shrink' or 'grow'), EFBIG (RLIMIT_FSIZE), EINVAL, ENOMEM (no huge pages).
   */
  resize(byteLength: number): void {
    const { fd } = this;
    const who = 'Memfd.resize()';
    const { pageSize } = this;
    if (pageSize > systemPageSize()) checkPages(who, 'byteLength', byteLength, pageSize, 0);
    else checkBytes(who, 'byteLength', byteLength, 0);
    const before = this.byteLength;
    const seal = byteLength < before ? 'shrink' : 'grow';
    fromFs(`${who}: ${before} bytes cannot become ${byteLength}`, () => ftruncateSync(fd, byteLength), {
      EPERM: sealedAgainst(this.seals, [seal]),
    });
  }

  /** The seals it has. */
  get seals(): FlagSet<Seal> {
    const bits = native().memfdSeals(this.fd);
    if (bits < 0) throw refused('Memfd.seals', bits, 'fcntl');
    return new FlagSet<Seal>(BigInt(bits), SEALS);
  }

  /**
   * Adds seals; none can be taken away.
   * @throws TypeError; SystemError EPERM (the seal 'seal', as every object has that was made without `sealable`), EBUSY ('write' while a
   * shared mapping can write); UnsupportedError (missing: ['seal-…']: 'future-write' before 5.1, 'exec' before 6.3).
   */
  addSeals(seals: readonly Seal[]): void {
    const who = 'Memfd.addSeals()';
    const { fd } = this;
    if (!Array.isArray(seals)) throw wrongType(`${who}: seals must be an array of names, not ${shown(seals)}`);
    let bits = 0;
    for (const seal of seals) {
      const bit = SEALS.indexOf(seal);
      if (bit >= 0) bits |= 1 << bit;
      else throw wrongType(`${who}: a seal must be one of ${SEALS.join(', ')}, not ${shown(seal)}`);
    }
    const result = native().memfdAddSeals(fd, bits);
    if (result < 0) {
      if (errnoName(result) === 'EINVAL') {
        const missing = seals.filter((seal) => RECENT.includes(seal)).map((seal) => `seal-${seal}`);
        throw new UnsupportedError(`${who}: this kernel does not know ${seals.join(' or ')}`, undefined, missing);
      }
      throw refused(`${who}: ${seals.join(', ')} cannot be added`, result, 'fcntl', {
        EPERM: this.seals.has('seal') ? "the seal 'seal' forbids it" : 'the descriptor is not open for writing',
        EBUSY: "a shared mapping of it can still write; unmap it, or use 'future-write'",
      });
    }
  }

  /** Reads from `offset`. Returns the bytes read: fewer than `into` has only at the end, 0 behind it. */
  read(offset: number, into: Uint8Array): number {
    const { fd } = this;
    const who = 'Memfd.read()';
    checkBytes(who, 'offset', offset, 0);
    checkArray(who, into);
    return transfer(who, into, (from, length) => readSync(fd, into, from, length, offset + from), {});
  }

  /**
   * Writes at `offset`, past the end too: the object grows. Returns the bytes written: all of them.
   * @throws SystemError EPERM (the seal 'write', 'future-write', or 'grow' past the end), EINVAL (huge pages: write through a mapping), ENOSPC.
   */
  write(offset: number, bytes: Uint8Array): number {
    const { fd } = this;
    const who = 'Memfd.write()';
    checkBytes(who, 'offset', offset, 0);
    checkArray(who, bytes);
    if (bytes.length > 0 && offset + bytes.length > Number.MAX_SAFE_INTEGER) {
      throw outOfRange(`${who}: offset ${offset} and ${bytes.length} bytes end at 2^53 or later`);
    }
    const past = offset + bytes.length > this.byteLength;
    const candidates: Seal[] = past ? ['write', 'future-write', 'grow'] : ['write', 'future-write'];
    return transfer(who, bytes, (from, length) => writeSync(fd, bytes, from, length, offset + from), {
      EPERM: sealedAgainst(this.seals, candidates),
      EINVAL: 'huge pages cannot be written by a system call; write through a mapping',
      EFBIG: 'it would be longer than RLIMIT_FSIZE or the kernel allows',
    });
  }

  /**
   * Gives the memory of the range back; it reads zero, and is missing to a userfaultfd, in every mapping. The size stays. Parts of pages
   * at its ends are zeroed. A userfaultfd with 'event-remove' makes it block until the event is read.
   * @throws RangeError; SystemError EPERM (the seal 'write' or 'future-write'), EINTR.
   */
  punchHole(offset: number, byteLength: number): void {
    const { fd } = this;
    const who = 'Memfd.punchHole()';
    checkBytes(who, 'offset', offset, 0);
    checkBytes(who, 'byteLength', byteLength, 1);
    if (!Number.isSafeInteger(offset + byteLength)) throw outOfRange(`${who}: the range ends at 2^53 or later`);
    const result = native().memfdPunch(fd, offset, byteLength);
    if (result < 0) {
      throw refused(`${who}: ${byteLength} bytes at offset ${offset} cannot be given back`, result, 'fallocate', {
        EPERM: sealedAgainst(this.seals, ['write', 'future-write']),
      });
    }
  }

  /** The descriptor, which is the caller's from now on; this object is closed. */
  intoFd(): number {
    const { fd } = this;
    this.#closed = true;
    return fd;
  }

  /** Closes the descriptor. Mappings keep the memory. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    native().descriptorClose(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function memfdPageSize(fd: number): number {
  const huge = native().memfdHugePageSize(fd);
  return huge > 0 ? huge : systemPageSize();
}

function checkArray(who: string, bytes: unknown): void {
  if (!types.isUint8Array(bytes)) throw wrongType(`${who}: needs a Uint8Array, not ${shown(bytes)}`);
}

/** Calls `step` until all bytes are through or it returns 0. */
function transfer(
  who: string,
  bytes: Uint8Array,
  step: (from: number, length: number) => number,
  reasons: Reasons,
): number {
  let done = 0;
  while (done < bytes.length) {
    const from = done;
    const moved = fromFs(who, () => step(from, Math.min(bytes.length - from, STEP)), reasons);
    if (moved === 0) break;
    done += moved;
  }
  return done;
}
