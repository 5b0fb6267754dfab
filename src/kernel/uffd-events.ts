/** What a userfaultfd reports: 32-byte messages, and what they become. Any thread. */

import { constants } from 'node:os';
import { types } from 'node:util';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { UffdError } from '../errors/uffd-error.js';
import { systemError } from './descriptor.js';
import type { Uffd } from './uffd.js';

/** A thread touched memory that is registered. It waits until the page is resolved, or woken. */
export interface PagefaultEvent {
  type: 'pagefault';
  kind: 'missing' | 'write-protect' | 'minor';
  access: 'read' | 'write';
  /** The address of the page; the exact one with the feature `exact-address` (5.18). */
  address: bigint;
  /** Kernel id of the thread; with the feature `thread-id` (4.14). */
  thread: number | undefined;
  /** As the kernel told, unknown bits too. */
  flags: bigint;
}

/**
 * The process forked: `uffd` is that of the child's memory, and the reader's to close. Feature `event-fork` (4.11). For another process only:
 * fork holds the C library's memory locks while it waits for the reader, who in the same process would then wait for these.
 */
export interface ForkEvent {
  type: 'fork';
  uffd: Uffd;
}

/** mremap(2) moved registered memory. Feature `event-remap` (4.11). */
export interface RemapEvent {
  type: 'remap';
  from: bigint;
  to: bigint;
  /** Bytes of the old range. */
  byteLength: number;
}

/** The pages were dropped: madvise(2). Feature `event-remove` (4.11). */
export interface RemoveEvent {
  type: 'remove';
  start: bigint;
  end: bigint;
}

/** The mapping is gone: munmap(2). Feature `event-unmap` (4.11). */
export interface UnmapEvent {
  type: 'unmap';
  start: bigint;
  end: bigint;
}

/** A message of a newer kernel. */
export interface UnknownEvent {
  type: 'unknown';
  /** The kernel's number. */
  event: number;
  /** All 32 bytes, a copy. */
  message: Uint8Array;
}

/** Whoever caused a fork, remap, remove or unmap event waits until it has been read. */
export type UffdEvent = PagefaultEvent | ForkEvent | RemapEvent | RemoveEvent | UnmapEvent | UnknownEvent;

/** Bytes of a message. */
export const MESSAGE_BYTES = 32;

const FAULT = 0x12;
const FORK = 0x13;
const REMAP = 0x14;
const REMOVE = 0x15;
const UNMAP = 0x16;
const FLAG_WRITE = 1n;
const FLAG_WRITE_PROTECT = 2n;
const FLAG_MINOR = 4n;
const { EDEADLK, EMFILE, ENFILE, EINVAL } = constants.errno;

/** Throws unless at least one message fits. */
export function checkBuffer(buffer: unknown): asserts buffer is Uint8Array {
  if (!types.isUint8Array(buffer)) {
    throw wrongType(`readEvents: the buffer must be a Uint8Array, not ${shown(buffer)}`);
  }
  if (buffer.byteLength < MESSAGE_BYTES) {
    throw outOfRange(
      `readEvents: the buffer must have room for a message, ${MESSAGE_BYTES} bytes, not ${buffer.byteLength}`,
    );
  }
}

/** The error for what a read returned: fewer bytes than a message, or -errno. */
export function readFailure(result: number): Error {
  if (result === 0) return new UffdError('ERR_PAGEFAULT_READ_EOF', 'readEvents: the descriptor has ended');
  if (result > 0) {
    const sentence = `readEvents: ${result} bytes were read where a message has ${MESSAGE_BYTES}`;
    return new UffdError('ERR_PAGEFAULT_INCOMPLETE_MESSAGE', sentence, { read: result, expected: MESSAGE_BYTES });
  }
  const why =
    -result === EINVAL
      ? 'its handshake was not made'
      : -result === EMFILE || -result === ENFILE
        ? "the process has no descriptor left for a child's userfaultfd; the event stays until there is one"
        : -result === EDEADLK
          ? 'whoever shares it has made it blocking, and the read would wait'
          : 'the kernel refuses';
  return systemError(`readEvents: the userfaultfd cannot be read: ${why}`, -result, 'read');
}

function toEvent(view: DataView, at: number, threads: boolean, adopt: (fd: number) => Uffd): UffdEvent {
  const event = view.getUint8(at);
  switch (event) {
    case FAULT: {
      const flags = view.getBigUint64(at + 8, true);
      return {
        type: 'pagefault',
        kind: flags & FLAG_WRITE_PROTECT ? 'write-protect' : flags & FLAG_MINOR ? 'minor' : 'missing',
        access: flags & FLAG_WRITE ? 'write' : 'read',
        address: view.getBigUint64(at + 16, true),
        thread: threads ? view.getUint32(at + 24, true) : undefined,
        flags,
      };
    }
    case FORK:
      return { type: 'fork', uffd: adopt(view.getUint32(at + 8, true)) };
    case REMAP:
      return {
        type: 'remap',
        from: view.getBigUint64(at + 8, true),
        to: view.getBigUint64(at + 16, true),
        byteLength: Number(view.getBigUint64(at + 24, true)),
      };
    case REMOVE:
      return { type: 'remove', start: view.getBigUint64(at + 8, true), end: view.getBigUint64(at + 16, true) };
    case UNMAP:
      return { type: 'unmap', start: view.getBigUint64(at + 8, true), end: view.getBigUint64(at + 16, true) };
    default: {
      const message = new Uint8Array(MESSAGE_BYTES);
      message.set(new Uint8Array(view.buffer, view.byteOffset + at, MESSAGE_BYTES));
      return { type: 'unknown', event, message };
    }
  }
}

/**
 * The messages in the first `byteLength` bytes. `threads`: they carry thread ids. `adopt` is called once for each descriptor that came with
 * a fork, and must not throw: nobody else knows of it.
 */
export function toEvents(
  view: DataView,
  byteLength: number,
  threads: boolean,
  adopt: (fd: number) => Uffd,
): UffdEvent[] {
  const events: UffdEvent[] = [];
  for (let at = 0; at + MESSAGE_BYTES <= byteLength; at += MESSAGE_BYTES) {
    events.push(toEvent(view, at, threads, adopt));
  }
  return events;
}
