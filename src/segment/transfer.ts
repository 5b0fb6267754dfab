/** Bytes of a segment to a descriptor and back, on threads of the core: neither Node's thread pool nor the event loop waits. Any thread. */

import { constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { errnoError, errnoNames, fromNative } from '../errors/from-native.js';
import { SystemError } from '../errors/system-error.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { inContext } from './jobs.js';
import { checkCount, checkRange, type Range } from './range.js';
import { failureError, type Region } from './region.js';
import type { SegmentMemory } from './segment-memory.js';

/** What has a descriptor: the descriptor itself, or a FileHandle of `node:fs/promises`. */
export type Descriptor = number | { readonly fd: number };

export interface TransferOptions {
  /**
   * Where the range begins in the segment, in bytes.
   * @default 0
   */
  offset?: number;
  /** Bytes of the range; default up to the end of the segment. */
  byteLength?: number;
  /** Where to write or read in the file, in bytes. Default where the descriptor stands, which then moves; a pipe or a socket knows nothing else. */
  position?: number | null;
  /** Ends the transfer; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Called now and then with the bytes that are transferred so far, and with the exact number at the end, however it ends. */
  onProgress?: (bytesDone: number) => void;
}

const KNOWN = ['offset', 'byteLength', 'position', 'signal', 'onProgress'] as const;

interface Transfer extends Range {
  who: string;
  /** True: into the segment. */
  into: boolean;
  fd: number;
  /** -1: where the descriptor stands. */
  position: number;
  signal: AbortSignal | undefined;
  onProgress: ((bytesDone: number) => void) | undefined;
}

/** The number of a descriptor; throws a TypeError or RangeError where there is none. */
function descriptorOf(who: string, target: unknown): number {
  const object = (typeof target === 'object' && target !== null ? target : {}) as { fd?: unknown; pipe?: unknown };
  const stream = typeof object.pipe === 'function'; // some have a descriptor, and bytes of their own that are still to go there
  const fd = typeof target === 'number' ? target : object.fd;
  if (typeof fd !== 'number' || stream) {
    const path = typeof target === 'string' || target instanceof URL;
    const hint = stream ? '; for a stream, use pipeline()' : path ? '; open the file first' : '';
    throw wrongType(`${who}: the first argument must be a descriptor or a FileHandle, not ${shown(target)}${hint}`);
  }
  if (!Number.isInteger(fd) || fd < 0 || fd > 2 ** 31 - 1) {
    const closed = target !== fd && fd === -1;
    throw outOfRange(closed ? `${who}: the FileHandle is closed` : `${who}: ${fd} is not a descriptor`);
  }
  return fd;
}

/** Checks what was given, but for what the segment has by now. */
function checkTransfer(who: string, into: boolean, region: Region, target: unknown, options: unknown): Transfer {
  const fd = descriptorOf(who, target);
  checkKeys(who, options, KNOWN);
  const { offset, byteLength, position, signal, onProgress } = options as Record<string, unknown>;
  const at = position ?? -1;
  if (at !== -1 || position === -1) checkCount(`${who}: position`, at, 0);
  checkSignal(who, signal);
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw wrongType(`${who}: onProgress must be a function, not ${shown(onProgress)}`);
  }
  const range = checkRange(who, region.byteLength, offset, byteLength);
  const progress = onProgress as Transfer['onProgress'];
  return { who, into, fd, position: at, signal, onProgress: progress, ...range };
}

/** Throws unless it is an AbortSignal or undefined. */
export function checkSignal(who: string, signal: unknown): asserts signal is AbortSignal | undefined {
  if (signal === undefined || signal instanceof AbortSignal) return;
  throw wrongType(`${who}: signal must be an AbortSignal, not ${shown(signal)}`);
}

/** Throws a TypeError where the segment is read-only. */
export function checkWritable(who: string, region: Region): void {
  if (region.writable) return;
  throw wrongType(
    `${who}: segment "${region.name}" is read-only; map it with writable: true`,
    'ERR_PAGEFAULT_READ_ONLY',
  );
}

/** What would help, for the failures that people meet. */
function helpFor(errno: number, into: boolean): string {
  const { EBADF, EPIPE, ESPIPE, ENOSPC } = constants.errno;
  if (errno === EBADF) return `; it is closed, or not open for ${into ? 'reading' : 'writing'}`;
  if (errno === ESPIPE) return '; a pipe or a socket has no position';
  if (errno === EPIPE) return '; nobody reads from it any more';
  return errno === ENOSPC ? '; the disk is full' : '';
}

/** There is no number left for the core's own duplicate of the descriptor: nothing was transferred, and nothing is wrong with the descriptor. */
function duplicateError({ who, fd, offset }: Transfer, region: Region, errno: number): Error {
  const { code, description } = errnoNames(errno);
  const syscall = 'fcntl';
  const details = { cause: errnoError(errno, syscall), segment: region.name, offset, errno, syscall };
  const what = `descriptor ${fd} cannot be duplicated (fcntl(F_DUPFD_CLOEXEC), ${code}: ${description})`;
  return new SystemError('ERR_PAGEFAULT_SYSTEM', `${who}: ${what}; nothing is transferred`, details);
}

/** The descriptor's failure, after `bytes` bytes. */
function descriptorError({ who, into, fd, offset }: Transfer, region: Region, errno: number, bytes: number): Error {
  const { code, description } = errnoNames(errno);
  const syscall = into ? 'read' : 'write';
  const what = `${syscall} of descriptor ${fd} failed (${code}: ${description}${helpFor(errno, into)})`;
  const where = `what lies before offset ${offset + bytes} of segment "${region.name}" is transferred`;
  const details = { cause: errnoError(errno, syscall), segment: region.name, offset: offset + bytes, errno, syscall };
  return new SystemError('ERR_PAGEFAULT_SYSTEM', `${who}: ${what}; ${where}`, details);
}

function run(region: Region, transfer: Transfer): Promise<number> {
  const { into, fd, offset, byteLength, position, signal, onProgress } = transfer;
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    let job = 0;
    const abort = (): void => native().jobCancel(job);
    try {
      job = native().regionTransfer(
        region.id,
        into,
        fd,
        offset,
        byteLength,
        position,
        (failure, bytes, errno) => {
          signal?.removeEventListener('abort', abort);
          if (errno !== 0) reject(descriptorError(transfer, region, errno, bytes));
          else if (failure === null) resolve(bytes);
          else if (failure.code === 'ERR_PAGEFAULT_ABORTED' && signal?.aborted === true) reject(signal.reason);
          else reject(failureError({ ...failure, region: failure.region || region.id }));
        },
        inContext(onProgress),
      );
    } catch (error) {
      const { errno, syscall } = error as { errno?: number; syscall?: string };
      if (syscall !== 'fcntl' || errno === undefined) throw fromNative(error, region);
      throw errno === constants.errno.EBADF
        ? descriptorError(transfer, region, errno, 0)
        : duplicateError(transfer, region, errno);
    }
    signal?.addEventListener('abort', abort, { once: true });
  });
}

/** See `Segment.writeTo` and `Segment.readFrom`. */
export async function transferBytes(
  who: string,
  into: boolean,
  region: Region,
  memory: SegmentMemory,
  target: unknown,
  options: unknown,
): Promise<number> {
  const transfer = checkTransfer(who, into, region, target, options);
  region.check();
  if (into) checkWritable(who, region);
  const ended = (options as TransferOptions).byteLength !== undefined;
  const range = memory.existing(who, transfer, ended);
  transfer.signal?.throwIfAborted();
  if (range.byteLength === 0) return 0;
  return await run(region, { ...transfer, ...range });
}
