/** Memory that several segments, and several processes, show parts of their stores in. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { guarded } from '../errors/from-native.js';
import { PagefaultError } from '../errors/pagefault-error.js';
import { checkFd, wrongDescriptor } from '../kernel/descriptor.js';
import type { NativeShared } from '../native/binding.js';
import { native } from '../native/load.js';
import { parseSize } from '../options/sizes.js';

const LARGEST = 2 ** 45;

const objects = new WeakMap<SharedMemory, NativeShared>();

/** What the core knows a SharedMemory by. Throws for what is none, and for one that is closed. */
export function sharedOf(who: string, memory: unknown): NativeShared {
  if (!(memory instanceof SharedMemory)) {
    throw wrongType(
      `${who}: the memory must be what sharedMemory() or SharedMemory.fromFd() returned, not ${shown(memory)}`,
    );
  }
  const object = objects.get(memory);
  if (object === undefined) throw new PagefaultError('ERR_PAGEFAULT_CLOSED', `${who}: this SharedMemory is closed`);
  return object;
}

/**
 * Memory to be laid over parts of segments with `segment.patch`. Nothing is in it at first: each page is filled by the store of whichever segment touches it first.
 * Made by {@link sharedMemory}, or from a descriptor that another process sent. Collected unclosed it is closed.
 */
export class SharedMemory implements Disposable {
  /** Bytes. */
  readonly byteLength: number;

  /** Use {@link sharedMemory}. @internal */
  constructor(object: NativeShared) {
    this.byteLength = guarded(undefined, () => native().sharedByteLength(object));
    objects.set(this, object);
  }

  /**
   * The memory that another process made with `sharedMemory` and sent the `fd` of (`sendFds` of 'pagefault/kernel'); `fd` stays the caller's. Throws a
   * DescriptorError (`ERR_PAGEFAULT_WRONG_DESCRIPTOR`) for anything else.
   */
  static fromFd(fd: number): SharedMemory {
    checkFd('SharedMemory.fromFd()', fd);
    const object = guarded(undefined, () => native().sharedAdopt(fd));
    if (object !== undefined) return new SharedMemory(object);
    throw wrongDescriptor('SharedMemory.fromFd()', fd, 'shared memory that sharedMemory() made');
  }

  /** A descriptor of the memory, to be sent to another process. It stays this object's: it is closed with it. */
  get fd(): number {
    const object = sharedOf('fd', this);
    return guarded(undefined, () => native().sharedFd(object));
  }

  /** Bytes that have been filled, by whomever. */
  get filledBytes(): number {
    const object = sharedOf('filledBytes', this);
    return guarded(undefined, () => native().sharedFilled(object));
  }

  /** Segments that have it keep it. Idempotent. */
  close(): void {
    const object = objects.get(this);
    objects.delete(this);
    if (object !== undefined) native().sharedClose(object);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * Shared memory of so many bytes, or '64MiB': a multiple of the `pageSize` of the segments it is meant for, or what reaches exactly to their end. Costs no
 * memory until pages are filled; then for as long as any segment, process or `SharedMemory` has it.
 *
 * @example
 * const hot = sharedMemory('16MiB');
 */
export function sharedMemory(byteLength: number | string): SharedMemory {
  const bytes = parseSize('sharedMemory(): byteLength', byteLength);
  if (bytes === 0 || bytes > LARGEST) {
    throw outOfRange(`sharedMemory(): byteLength must be from 1 to 2^45 bytes, not ${bytes}`);
  }
  return new SharedMemory(guarded(undefined, () => native().sharedCreate(bytes)));
}
