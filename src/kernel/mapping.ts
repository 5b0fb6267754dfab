/**
 * Memory of this process, mapped by mmap(2) or taken from the heap. Any thread; a Mapping belongs to the thread that made it, its
 * memory to the process: other threads reach it with {@link Mapping.bufferAt}.
 */

import { outOfRange, wrongType } from '../errors/argument.js';
import { PagefaultError } from '../errors/pagefault-error.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import { native } from '../native/load.js';
import { type FileOptions, mapFile, mapMemfd } from './mapping-file.js';
import { type AnonymousOptions, type HeapOptions, type Mapped, mapAnonymous, mapHeap } from './mapping-make.js';
import {
  type Advice,
  adviceNumber,
  checkBytes,
  checkPages,
  type Protection,
  protectionBits,
} from './mapping-options.js';
import { type PatchOptions, type PatchSource, patchOver } from './mapping-patch.js';
import type { Memfd } from './memfd.js';
import { bufferOver } from './memory-buffer.js';
import { checkRange, pageSize, type Range } from './range.js';
import { refused } from './refusal.js';

/** What the memory of a mapping is. */
export type MappingKind = 'anonymous' | 'file' | 'memfd' | 'heap';

const TOO_MANY =
  'the kernel has no memory for it, or this process has as many mappings as vm.max_map_count allows (each change of protection inside a mapping makes more of them)';

/**
 * A mapping: a range of addresses, and the memory there. Made by {@link Mapping.anonymous}, {@link Mapping.file}, {@link Mapping.memfd}
 * and {@link Mapping.heap}.
 *
 * Nothing is unmapped by the garbage collector, because the kernel and other threads may still use the address: call
 * `unmap`, or let the memory live as long as the process. None of the calls needs a privilege, and none a kernel later
 * than 2.6 where it does not say so. While a userfaultfd with 'event-unmap', 'event-remove' or 'event-remap' watches the
 * range, `unmap`, `advise` and `patch` block until another thread has read the event: never call them in the thread
 * that reads events.
 *
 * @example
 * const memory = Mapping.anonymous(16 * 4096);
 * new Uint8Array(memory.buffer)[0] = 1;
 * memory.unmap();
 */
export class Mapping implements Range {
  /** Of the first byte. A multiple of `pageSize`. */
  readonly address: bigint;
  /** Bytes. Whole pages, but for files and memory objects whose size is none: their last page reads zero behind it. */
  readonly byteLength: number;
  /** Bytes of the unit of protection and faults: the system's page, or the huge page of hugetlb memory. */
  readonly pageSize: number;
  readonly kind: MappingKind;
  readonly #release: (address: bigint, byteLength: number) => void;
  readonly #patchable: boolean;
  readonly #inherited: boolean;
  #protection: Protection;
  #buffer: ArrayBuffer | undefined;
  #unmapped = false;

  private constructor(mapped: Mapped) {
    this.address = mapped.address;
    this.byteLength = mapped.byteLength;
    this.pageSize = mapped.pageSize;
    this.kind = mapped.kind;
    this.#release = mapped.release;
    this.#patchable = mapped.kind !== 'heap';
    this.#inherited = mapped.inherited;
    this.#protection = mapped.protection;
  }

  /**
   * New memory that reads zero. No privilege.
   * @param byteLength Whole pages: a multiple of the system's page size, or of the size that `hugePages` chooses.
   * @throws RangeError for a length or an address that no mapping can have. SystemError with errno ENOMEM (no address space, the limits
   * RLIMIT_AS and vm.overcommit_memory, no free huge pages), EEXIST (something is mapped at `address`; from 4.17 the kernel itself sees to
   * it), EPERM (`address` below vm.mmap_min_addr).
   */
  static anonymous(byteLength: number, options: AnonymousOptions = {}): Mapping {
    return new Mapping(mapAnonymous('Mapping.anonymous()', byteLength, options));
  }

  /**
   * A file. A path is opened for reading, or for reading and writing where `shared` and `protection` need it, and closed again: the
   * mapping keeps the file. A descriptor stays the caller's. A range beyond the file's end is refused; a file that others make shorter
   * while it is mapped raises SIGBUS where it has ended, which ends the process.
   * @throws RangeError; DescriptorError for what cannot be mapped (a directory, a pipe, a socket); SystemError with errno ENOENT, EACCES (the
   * descriptor's mode does not allow the protection), EPERM (the file system is mounted noexec, or a seal forbids it), ENOMEM, EEXIST.
   */
  static file(source: string | number, options: FileOptions = {}): Mapping {
    return new Mapping(mapFile('Mapping.file()', source, options));
  }

  /** A memory object, shared by default: what is written here is seen by all who have it. Errors as {@link Mapping.file}. */
  static memfd(memfd: Memfd, options: FileOptions = {}): Mapping {
    return new Mapping(mapMemfd('Mapping.memfd()', memfd, options));
  }

  /**
   * Whole pages of the process's own heap, contents dropped: for paging memory that an allocator owns.
   *
   * 'malloc' (default): `unmap` gives the pages back to malloc, which writes into them. Unregister them first, or the
   * thread that unmaps waits for a page. 'brk': the program break is moved; the memory is never given back, `unmap`
   * only drops its contents. Moving the break at the very moment that malloc does in another thread cannot be made safe: do it early.
   * @throws RangeError; SystemError ENOMEM (RLIMIT_DATA, no memory), EBUSY (others keep moving the break); UnsupportedError (missing: ['brk'])
   * for 'brk' where the C library is not glibc.
   */
  static heap(byteLength: number, options: HeapOptions = {}): Mapping {
    return new Mapping(mapHeap('Mapping.heap()', byteLength, options));
  }

  /**
   * Memory that is mapped somewhere in this process, for example by another thread's Mapping, as an ArrayBuffer. That something is mapped at
   * every page is checked now and never again: once the range is unmapped, a touch ends the process or reads what others put there.
   * The length need not be whole pages, as that of a mapped file is not. Drop the buffer before the owner unmaps, and never transfer it.
   */
  static bufferAt(range: Range): ArrayBuffer {
    const who = 'Mapping.bufferAt()';
    if (typeof range !== 'object' || range === null) checkRange(who, range);
    const { address } = range;
    const byteLength = checkBytes(who, 'byteLength', range.byteLength, 1);
    const whole = Math.ceil(byteLength / pageSize()) * pageSize();
    checkRange(who, { address, byteLength: whole });
    if (native().memoryExists(address, whole) === 0) {
      throw outOfRange(
        `${who}: nothing is mapped at some page of the ${byteLength} bytes from 0x${address.toString(16)}`,
      );
    }
    return bufferOver(who, address, byteLength);
  }

  /**
   * The memory. Always the same object; detached (length 0) by `unmap`. Never move it with `transfer` or a transfer list: `unmap` would not
   * know the buffer it becomes. A touch that `protection` forbids ends the process with SIGSEGV.
   * @throws RangeError where the runtime holds no ArrayBuffer of this length: Node.js 20 stops at 4 GiB.
   */
  get buffer(): ArrayBuffer {
    this.#check('buffer');
    this.#buffer ??= bufferOver('Mapping.buffer', this.address, this.byteLength);
    return this.#buffer;
  }

  /** True after `unmap`: every other use throws ERR_PAGEFAULT_CLOSED. */
  get unmapped(): boolean {
    return this.#unmapped;
  }

  /**
   * mprotect(2). Default: all of it. Patches that come later get the protection that all of it had last.
   * @throws RangeError; SystemError EACCES (the file was opened for reading only, or a seal forbids writing), ENOMEM (vm.max_map_count).
   */
  protect(protection: Protection, offset = 0, byteLength?: number): void {
    const who = 'Mapping.protect()';
    this.#check('protect');
    const bits = protectionBits(who, protection);
    const { address, length } = this.#span(who, offset, byteLength);
    const result = native().memoryProtect(address, length, bits);
    if (result < 0) {
      throw refused(`${who}: '${protection}' is refused for ${length} bytes at offset ${offset}`, result, 'mprotect', {
        EACCES: 'the file or memory object is not open for writing, or a seal forbids it',
        ENOMEM: TOO_MANY,
      });
    }
    if (offset === 0 && length >= this.byteLength) this.#protection = protection;
  }

  /**
   * madvise(2). Default: all of it. 'populate-read' and 'populate-write' go on after a signal until all of it is there.
   * @throws RangeError; UnsupportedError (missing: ['advise-…']) for an advice this kernel does not know; SystemError EINVAL (it does not fit
   * the kind of memory), EFAULT (a page cannot be populated: it is poisoned, or missing to a userfaultfd in SIGBUS mode), EBUSY and EAGAIN
   * ('collapse'), ENOMEM.
   */
  advise(advice: Advice, offset = 0, byteLength?: number): void {
    const who = 'Mapping.advise()';
    this.#check('advise');
    const number = adviceNumber(who, advice);
    const { address, length } = this.#span(who, offset, byteLength);
    const result = native().memoryAdvise(address, length, number);
    if (result === 0) return;
    // For no bytes at all, the kernel only looks whether it knows the advice.
    if (native().memoryAdvise(address, 0, number) < 0) {
      throw new UnsupportedError(`${who}: this kernel does not know '${advice}'`, undefined, [`advise-${advice}`]);
    }
    throw refused(`${who}: '${advice}' is refused for ${length} bytes at offset ${offset}`, result, 'madvise', {
      EINVAL: `it does not fit this kind of memory${advice === 'collapse' ? ', or a page of it is write-protected by a userfaultfd' : ''}`,
      EFAULT: 'a page cannot be made present: it is poisoned, or missing to a userfaultfd that answers with SIGBUS',
      EACCES: 'the protection of a page, or the mode in which the file is open, forbids it',
      ENOMEM: 'the kernel has no memory for it, or a limit is reached (vm.max_map_count, RLIMIT_MEMLOCK, a cgroup)',
      EBUSY: 'pages of it are in use or locked; try again',
      EAGAIN: 'pages of it were busy; try again',
    });
  }

  /**
   * Lays other memory over a part of the mapping, in one step: no thread sees it unmapped. 'anonymous' lays fresh private memory
   * that reads zero, which is also how a patch is taken away. A userfaultfd is not registered for the new memory. What
   * was there stays in its file or memory object, or is lost. On failure nothing has changed.
   * @throws RangeError for what is outside this mapping or the source; TypeError for heap memory; SystemError as {@link Mapping.file}.
   */
  patch(offset: number, source: PatchSource, options: PatchOptions = {}): void {
    const who = 'Mapping.patch()';
    this.#check('patch');
    if (!this.#patchable) {
      throw wrongType(`${who}: memory of the heap cannot be patched: its allocator gets it back`);
    }
    const { address, length } = this.#span(who, offset, undefined);
    const target = { address, byteLength: length, pageSize: this.pageSize, offset, protection: this.#protection };
    const patched = patchOver(who, target, source, options);
    if (!this.#inherited) native().memoryAdvise(address, patched, adviceNumber(who, 'dontfork'));
  }

  /**
   * Detaches `buffer`, then gives the memory back. Idempotent. Buffers that {@link Mapping.bufferAt} made are not
   * known here: touching one afterwards ends the process, or reads what others have mapped there since.
   * @throws PagefaultError ERR_PAGEFAULT_SEGMENT_OVERLAP while a segment pages it (`into`): close that first.
   */
  unmap(): void {
    if (this.#unmapped) return;
    this.#takeBack();
    if (this.#buffer !== undefined) native().memoryDetach(this.#buffer);
    this.#buffer = undefined;
    this.#release(this.address, this.#length);
    this.#unmapped = true; // a refusal can be repeated
  }

  [Symbol.dispose](): void {
    this.unmap();
  }

  /** Whole pages. */
  get #length(): number {
    return Math.ceil(this.byteLength / this.pageSize) * this.pageSize;
  }

  /** Segments that had the memory and are closed no longer stand for it. */
  #takeBack(): void {
    const segment = native().memoryForget(this.address, this.#length);
    if (segment === undefined) return;
    const sentence = `Mapping.unmap: segment "${segment}" pages this memory; close it first`;
    throw new PagefaultError('ERR_PAGEFAULT_SEGMENT_OVERLAP', sentence, { segment });
  }

  #check(what: string): void {
    if (!this.#unmapped) return;
    throw new PagefaultError('ERR_PAGEFAULT_CLOSED', `Mapping.${what}: this Mapping is unmapped`);
  }

  /** Whole pages of this mapping; its last page counts as whole. */
  #span(who: string, offset: unknown, byteLength: unknown): { address: bigint; length: number } {
    const whole = this.#length;
    const start = checkPages(who, 'offset', offset, this.pageSize, 0);
    const rest = whole - start;
    if (rest <= 0)
      throw outOfRange(`${who}: offset ${start} is not below the ${this.byteLength} bytes of this mapping`);
    let length = rest;
    if (byteLength !== undefined) {
      length = checkBytes(who, 'byteLength', byteLength, 1);
      // Up to the end of the last page, the number of bytes that the mapping has is as good as that of its pages.
      if (start + length !== this.byteLength) length = checkPages(who, 'byteLength', length, this.pageSize, 1);
      else length = rest;
    }
    if (length > rest) {
      throw outOfRange(
        `${who}: byteLength ${length} at offset ${start} ends after the ${this.byteLength} bytes of this mapping`,
      );
    }
    return { address: this.address + BigInt(start), length };
  }
}
