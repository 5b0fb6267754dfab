/**
 * A userfaultfd(2): who touches registered memory that is not there waits until somebody puts it there. Any thread; an object belongs to the
 * thread that made it, its descriptor to the process. The calls check their arguments only after the kernel (or the core, before the kernel) has
 * refused them: a call that works costs little more than its system call.
 */

import { constants } from 'node:os';
import { wrongType } from '../errors/argument.js';
import type { NativeProcess } from '../native/kernel/process.js';
import type { NativeUffd } from '../native/kernel/uffd.js';
import { native } from '../native/load.js';
import { closedError, systemError } from './descriptor.js';
import { FlagSet } from './flags.js';
import { FEATURES, IOCTLS, THREAD_ID, type UffdFeature, type UffdIoctl, type UffdMode } from './names.js';
import type { Range } from './range.js';
import { type AdoptOptions, adoptUffd } from './uffd-adopt.js';
import { checkBuffer, MESSAGE_BYTES, readFailure, toEvents, type UffdEvent } from './uffd-events.js';
import { checkTransfer, rangeFailure, sourceOf, type UffdCall } from './uffd-failures.js';
import {
  goOn,
  type MoveOptions,
  modeOf,
  PROTECT,
  PROTECT_DONT_WAKE,
  WAKE,
  WAKE_AND_HOLES,
  WAKE_AND_PROTECT,
  type WakeOption,
  type WriteProtectOption,
} from './uffd-modes.js';
import { type OpenedUffd, openUffd, type UffdOptions, type UffdOrigin } from './uffd-open.js';
import { register } from './uffd-register.js';
import { type Resolution, type ResolveOptions, resolve } from './uffd-resolve.js';
import { type Readable, Watch, type WatchOptions } from './watch.js';

const DEFAULT_MESSAGES = 64;
const { EAGAIN, EINVAL } = constants.errno;

/**
 * A userfaultfd: registers memory of this process (or, received from another one, of that), reports who touches what is not there, and puts it
 * there. Linux 4.11; needs no privilege with `userModeOnly`.
 *
 * Nothing is closed by the garbage collector, nor when a Worker ends. Closing it, and `unregister`, let whoever waits go on, on a page of zeroes, so unmap or protect the
 * memory first. A thread that waits cannot serve itself: serve from another thread than the one that touches.
 *
 * @example
 * const uffd = Uffd.open();
 * uffd.register(mapping, 'missing');
 * uffd.onReadable(() => {
 *   for (const event of uffd.readEvents()) {
 *     if (event.type === 'pagefault') uffd.resolve(event.address, bytesOf(event.address));
 *   }
 * });
 */
export class Uffd implements Disposable {
  /** The features in effect: those that were asked for and that the kernel has. */
  readonly features: FlagSet<UffdFeature>;
  /** All features of the kernel, as the handshake told; undefined for an adopted descriptor. */
  readonly availableFeatures: FlagSet<UffdFeature> | undefined;
  /** What can be done with the descriptor itself. What can be done with a range, `register` tells. */
  readonly ioctls: FlagSet<UffdIoctl>;
  /** Only faults in user code are reported; undefined: an adopted descriptor does not tell. */
  readonly userModeOnly: boolean | undefined;
  readonly openedBy: UffdOrigin;
  readonly nonBlocking: boolean;
  readonly #core: NativeUffd & Pick<NativeProcess, 'descriptorClose'>;
  readonly #neededIoctls: bigint;
  readonly #threads: boolean;
  /** -1: closed. The kernel refuses that by itself, so that no call need look. */
  #fd: number;
  #watch: Watch | undefined;
  #view: DataView | undefined;
  #buffer: Uint8Array | undefined;

  /** Made by {@link Uffd.open} and {@link Uffd.fromFd}. */
  private constructor(opened: OpenedUffd) {
    this.#core = native();
    this.#fd = opened.fd;
    this.features = new FlagSet(opened.features, FEATURES);
    this.availableFeatures = opened.offered === undefined ? undefined : new FlagSet(opened.offered, FEATURES);
    this.ioctls = new FlagSet(opened.ioctls, IOCTLS);
    this.userModeOnly = opened.userModeOnly;
    this.openedBy = opened.openedBy;
    this.nonBlocking = opened.nonBlocking;
    this.#neededIoctls = opened.neededIoctls;
    this.#threads = (opened.features & THREAD_ID) !== 0n;
  }

  /**
   * A new userfaultfd, with its handshake made. On failure no descriptor is left.
   * @throws {PermissionError} the process may not; the sentence names what would allow it
   * @throws {UnsupportedError} features, ioctls or the call are missing: `missing` has their names
   * @throws {DescriptorError} `device` is no descriptor of /dev/userfaultfd
   */
  static open(options: UffdOptions = {}): Uffd {
    return new Uffd(openUffd(options));
  }

  /**
   * Takes over a userfaultfd; from here on it is closed by this object. On failure it stays the caller's. One that another process made works on
   * the memory of that process.
   * @throws {DescriptorError} no userfaultfd
   * @throws {SystemError} EINVAL: `handshake` was asked for, and has been made
   */
  static fromFd(fd: number, options: AdoptOptions = {}): Uffd {
    return new Uffd(adoptUffd(fd, options));
  }

  /** The descriptor, which stays this object's. Throws when closed. */
  get fd(): number {
    return this.#open();
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /**
   * Faults of these kinds in the range are reported from now on. Tells what can be done with the range. Again for the same range: give all kinds
   * that it shall have, because others replace those that were there (where it has all that are given already, nothing changes).
   * Linux 4.11; 'write-protect' 5.7, of shared memory 5.19; 'minor' 5.13, of shared memory 5.14.
   * @throws {SystemError} EBUSY: another userfaultfd has part of it. EINVAL: not mapped, or not for this mode. ENOMEM: too many mappings
   * @throws {UnsupportedError} the range lacks one of the option `ioctls`; none of it is registered then, but where the mode is the reason:
   * that is seen before, and nothing has changed
   */
  register(range: Range, modes: UffdMode | readonly UffdMode[]): FlagSet<UffdIoctl> {
    return register(
      this.#core,
      this.#fd < 0 ? this.#open() : this.#fd,
      this.#neededIoctls & ~this.ioctls.bits,
      range,
      modes,
    );
  }

  /** Faults in the range are the kernel's again. Whoever waits in it goes on, on a page of zeroes. */
  unregister(range: Range): void {
    const result = this.#core.uffdUnregister(this.#fd, range?.address, range?.byteLength);
    if (result < 0) this.#refuse('unregister', range, result);
  }

  /**
   * Puts bytes into pages that are not there, each at once whole. Returns their number, which is that of the source; goes on after
   * partial progress. For a fault's answer `resolve` is right in more cases.
   * The source may be anywhere and shared; one that begins at a page, as a Mapping's does, spares some 80 ns a page. Mode `missing`; 4.11, and
   * `writeProtect` 5.7.
   * @throws {UffdError} PARTIALLY_COPIED with `copied`, COPY_FAILED; `errno`: EEXIST a page is there, EAGAIN an event is unread, ENOENT not registered, ESRCH gone
   */
  copy(to: bigint, source: Uint8Array | Range, options?: WakeOption & WriteProtectOption): number {
    const mode = options === undefined ? 0 : modeOf('copy', options, WAKE_AND_PROTECT);
    const byteLength = source?.byteLength;
    const from = sourceOf(source);
    const result = this.#core.uffdCopy(this.#fd, to, from, byteLength, mode);
    if (result === byteLength) return result;
    if (result < 0) this.#refuseTransfer('copy', to, source);
    return goOn('copy', to, byteLength, result, (done, rest) => {
      const next = typeof from === 'bigint' ? from + BigInt(done) : from.subarray(done);
      return this.#core.uffdCopy(this.#fd, to + BigInt(done), next, rest, mode);
    });
  }

  /**
   * Puts zeroes into pages that are not there. Private memory and shared memory; not hugetlb.
   * @throws {UffdError} PARTIALLY_COPIED, ZEROPAGE_FAILED (EEXIST: a page is there, or in private memory a mark of write protection, poison or a
   * guard, which `resolve` replaces)
   */
  zeropage(range: Range, options?: WakeOption): number {
    const mode = options === undefined ? 0 : modeOf('zeropage', options, WAKE);
    const result = this.#core.uffdZeropage(this.#fd, range?.address, range?.byteLength, mode);
    return result === range?.byteLength ? result : this.#goOnInPlace('zeropage', range, result, mode);
  }

  /**
   * Maps pages that the file (shared memory) has and the page table has not: the answer to a minor fault. Linux 5.13.
   * @throws {UffdError} PARTIALLY_COPIED, COPY_FAILED (EFAULT: the file has no page there)
   */
  continue(range: Range, options?: WakeOption & WriteProtectOption): number {
    const mode = options === undefined ? 0 : modeOf('continue', options, WAKE_AND_PROTECT);
    const result = this.#core.uffdContinue(this.#fd, range?.address, range?.byteLength, mode);
    return result === range?.byteLength ? result : this.#goOnInPlace('continue', range, result, mode);
  }

  /**
   * Whoever touches these pages gets SIGBUS, as for broken hardware. Undone by `copy` over them. Linux 6.6.
   * @throws {UffdError} PARTIALLY_COPIED, COPY_FAILED (EEXIST: a page is there)
   */
  poison(range: Range, options?: WakeOption): number {
    const mode = options === undefined ? 0 : modeOf('poison', options, WAKE);
    const result = this.#core.uffdPoison(this.#fd, range?.address, range?.byteLength, mode);
    return result === range?.byteLength ? result : this.#goOnInPlace('poison', range, result, mode);
  }

  /**
   * Moves pages within this process without copying them: the source is missing then. Private anonymous memory only; write protection is lost.
   * Linux 6.8. After an error ask `scanPages` what is where: 6.18 was seen to move pages and still say EEXIST.
   * @throws {UffdError} PARTIALLY_COPIED, COPY_FAILED
   */
  move(to: bigint, from: Range, options?: MoveOptions): number {
    const mode = options === undefined ? 0 : modeOf('move', options, WAKE_AND_HOLES);
    const result = this.#core.uffdMove(this.#fd, to, from?.address, from?.byteLength, mode);
    if (result === from?.byteLength) return result;
    if (result < 0) this.#refuseTransfer('move', to, from);
    return goOn('move', to, from.byteLength, result, (done, rest) =>
      this.#core.uffdMove(this.#fd, to + BigInt(done), from.address + BigInt(done), rest, mode),
    );
  }

  /** Whoever waits in the range looks again; where nothing has changed, the fault is reported anew. */
  wake(range: Range): void {
    const result = this.#core.uffdWake(this.#fd, range?.address, range?.byteLength);
    if (result < 0) this.#refuse('wake', range, result);
  }

  /** The next write to each page that is there is a fault; to absent ones too with the feature `wp-unpopulated`. Mode `write-protect`, 5.7. */
  writeProtect(range: Range, options?: Record<string, never>): void {
    if (options !== undefined) modeOf('writeProtect', options, []);
    const result = this.#core.uffdWriteProtect(this.#fd, range?.address, range?.byteLength, PROTECT);
    if (result < 0) this.#refuse('writeProtect', range, result);
  }

  /** Writes go through again, and whoever waits to write goes on. */
  removeWriteProtection(range: Range, options?: WakeOption): void {
    const mode = options === undefined ? 0 : modeOf('removeWriteProtection', options, WAKE) * PROTECT_DONT_WAKE;
    const result = this.#core.uffdWriteProtect(this.#fd, range?.address, range?.byteLength, mode);
    if (result < 0) this.#refuse('removeWriteProtection', range, result);
  }

  /**
   * Answers a fault: gets the range there whatever stands in the way. Pages that are there are skipped and their waiters woken, marks (of write
   * protection, poison, a guard) are replaced, partial progress goes on; what cannot be helped is told by the status. Takes up to about a millisecond where the kernel says EAGAIN.
   * @throws {UffdError} for other errors: COPY_FAILED or ZEROPAGE_FAILED, or PARTIALLY_COPIED where a part was dealt with
   */
  resolve(to: bigint, source: Uint8Array | Range | 'zero' | 'continue', options?: ResolveOptions): Resolution {
    return resolve(this.#core, this.#fd < 0 ? this.#open() : this.#fd, to, source, options);
  }

  /**
   * The next event; undefined: there is none. A blocking descriptor waits for one, and stops this thread.
   * @throws {UffdError} READ_EOF, INCOMPLETE_MESSAGE
   */
  readEvent(): UffdEvent | undefined {
    this.#buffer ??= new Uint8Array(DEFAULT_MESSAGES * MESSAGE_BYTES);
    return this.#read(this.#buffer.subarray(0, MESSAGE_BYTES))[0];
  }

  /**
   * The events that are there, as many as fit (a multiple of 32 bytes counts). Without a buffer up to 64 of them. A blocking descriptor waits for the first.
   * @throws {RangeError} the buffer is smaller than a message; nothing was read
   * @throws {UffdError} READ_EOF, INCOMPLETE_MESSAGE
   */
  readEvents(buffer?: Uint8Array): UffdEvent[] {
    if (buffer === undefined) {
      this.#buffer ??= new Uint8Array(DEFAULT_MESSAGES * MESSAGE_BYTES);
      return this.#read(this.#buffer);
    }
    checkBuffer(buffer);
    return this.#read(buffer);
  }

  /**
   * Calls back on this thread's event loop whenever there is something to read. One watch at a time and thread; `close` ends it.
   * @throws {TypeError} the descriptor is a blocking one, which the kernel always says to be in error
   */
  onReadable(callback: Readable, options?: WatchOptions): Watch {
    const fd = this.#watchable('onReadable');
    const watch = Watch.start(fd, callback, options);
    this.#watch = watch;
    return watch;
  }

  /**
   * The fast way to serve: reads the events that are there, up to 64, and calls back with them, and with the time at which they were found (milliseconds of
   * `process.hrtime`). `failed` hears of a read that fails; without it that is an uncaught exception. One watch at a time and thread.
   * @throws {TypeError} the descriptor is a blocking one
   */
  onEvents(
    callback: (events: UffdEvent[], at: number) => void,
    options?: WatchOptions,
    failed?: (error: Error) => void,
  ): Watch {
    const fd = this.#watchable('onEvents');
    const buffer = new Uint8Array(DEFAULT_MESSAGES * MESSAGE_BYTES); // private: the core keeps its address
    const view = new DataView(buffer.buffer);
    const child = (descriptor: number): Uffd => this.#child(descriptor);
    const read = (at: number, got: number): void => {
      if (got >= MESSAGE_BYTES) callback(toEvents(view, got, this.#threads, child), at);
      else if (failed === undefined) throw readFailure(got);
      else failed(readFailure(got));
    };
    const watch = Watch.start(fd, read, options, undefined, buffer);
    this.#watch = watch;
    return watch;
  }

  #watchable(who: string): number {
    const fd = this.#open();
    if (this.nonBlocking) return fd;
    throw wrongType(`${who}: the event loop can watch only a userfaultfd that was opened with nonBlocking: true`);
  }

  /** Gives the descriptor away: it is the caller's, and this object is closed. */
  intoFd(): number {
    const fd = this.#open();
    this.#watch?.close();
    this.#fd = -1;
    return fd;
  }

  /** Whoever waits goes on, on a page of zeroes; a later touch of missing memory reads zeroes. Idempotent. */
  close(): void {
    if (this.#fd < 0) return;
    const fd = this.#fd;
    this.#watch?.close();
    this.#fd = -1;
    // Not by node:fs: in a Worker it warns of descriptors that it has not opened.
    const result = this.#core.descriptorClose(fd);
    if (result < 0) throw systemError(`close: descriptor ${fd} had been closed by somebody else`, -result, 'close');
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #open(): number {
    if (this.#fd < 0) throw closedError('Uffd');
    return this.#fd;
  }

  #read(into: Uint8Array): UffdEvent[] {
    let view = this.#view;
    if (view === undefined || view.buffer !== into.buffer || view.byteOffset !== into.byteOffset) {
      view = new DataView(into.buffer, into.byteOffset);
      this.#view = view;
    }
    const core = this.#core;
    const got = this.nonBlocking ? core.uffdReadNow(this.#fd, into) : core.uffdRead(this.#fd, into);
    if (got === -EAGAIN) return [];
    if (got < MESSAGE_BYTES) {
      this.#open();
      throw readFailure(got);
    }
    return toEvents(view, got, this.#threads, (fd) => this.#child(fd));
  }

  /** The userfaultfd of a forked child has the features and flags of its parent's. Must not throw: nobody else knows the descriptor. */
  #child(fd: number): Uffd {
    return new Uffd({
      fd,
      features: this.features.bits,
      offered: this.availableFeatures?.bits,
      ioctls: this.ioctls.bits,
      neededIoctls: this.#neededIoctls,
      userModeOnly: this.userModeOnly,
      openedBy: 'adopted',
      nonBlocking: this.nonBlocking,
    });
  }

  #refuse(call: UffdCall, range: Range, result: number): never {
    this.#open();
    throw rangeFailure(call, range, -result);
  }

  #refuseTransfer(call: UffdCall, to: unknown, source: unknown): void {
    this.#open();
    checkTransfer(call, to, source);
  }

  #goOnInPlace(call: 'zeropage' | 'continue' | 'poison', range: Range, result: number, mode: number): number {
    if (result < 0) {
      this.#open();
      if (result === -EINVAL) rangeFailure(call, range, EINVAL); // throws where the range is the reason
    }
    const { address, byteLength } = range;
    const again = { zeropage: 'uffdZeropage', continue: 'uffdContinue', poison: 'uffdPoison' } as const;
    return goOn(call, address, byteLength, result, (done, rest) =>
      this.#core[again[call]](this.#fd, address + BigInt(done), rest, mode),
    );
  }
}
