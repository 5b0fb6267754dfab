/** Opens the file of a `file()` store, and makes it where it is to be made. Runs on the thread that maps. */

import {
  accessSync,
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  type Stats,
} from 'node:fs';
import { dirname } from 'node:path';
import { outOfRange, wrongType } from '../errors/argument.js';
import { StoreError, type StoreErrorCode } from '../errors/store-error.js';
import type { FileRef } from '../stores/ref.js';
import type { Source } from './source.js';

const CANNOT_READ: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such file',
  ENOTDIR: 'there is no such file',
  EACCES: 'there is no permission to read it',
  EPERM: 'there is no permission to read it',
  EISDIR: 'it is a directory',
};

const CANNOT_WRITE: Readonly<Record<string, string>> = {
  EACCES: 'there is no permission to write it',
  EPERM: 'it may not be written (is it immutable, or append-only?)',
  EROFS: 'its file system is mounted read-only',
  ETXTBSY: 'it is a program that is running',
};

function cannotOpen(ref: FileRef, error: unknown, writable: boolean): StoreError {
  const { code: errorCode = '', errno, syscall, message } = error as NodeJS.ErrnoException;
  const cannotWrite = writable && isReadable(ref.path) ? CANNOT_WRITE[errorCode] : undefined;
  const code: StoreErrorCode = cannotWrite === undefined ? 'ERR_PAGEFAULT_STORE_OPEN' : 'ERR_PAGEFAULT_STORE_READ_ONLY';
  const why = cannotWrite ?? CANNOT_READ[errorCode];
  const what = cannotWrite === undefined ? 'mapped' : 'mapped with writable: true';
  const sentence = `${ref.path} cannot be ${what}: ${why === undefined ? message : `${why} (${errorCode})`}`;
  return new StoreError(code, sentence, {
    cause: error,
    errno: errno === undefined ? undefined : Math.abs(errno),
    syscall,
  });
}

function isReadable(path: string): boolean {
  try {
    accessSync(path, constants.R_OK);
    return true;
  } catch {
    return false;
  }
}

function kindOf(stats: Stats | BigIntStats): string {
  if (stats.isDirectory()) return 'a directory';
  if (stats.isFIFO()) return 'a pipe';
  if (stats.isSocket()) return 'a socket';
  return 'a device';
}

/** The descriptor; the file may be new and empty. */
function openPath(ref: FileRef, writable: boolean): number {
  // Not blocking, because opening a pipe would wait for its other end.
  const flags = (writable ? constants.O_RDWR : constants.O_RDONLY) | constants.O_NONBLOCK;
  try {
    return openSync(ref.path, flags);
  } catch (error) {
    if (ref.create === undefined || (error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    return openSync(ref.path, flags | constants.O_CREAT, 0o666);
  }
}

/** Gives a file that is empty its length, and sees to it that both are still there after a power failure. */
function fillWithZeroes(fd: number, path: string, byteLength: number): void {
  ftruncateSync(fd, byteLength);
  fsyncSync(fd);
  try {
    const folder = openSync(dirname(path), constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      fsyncSync(folder);
    } finally {
      closeSync(folder);
    }
  } catch {
    // Some file systems cannot sync a folder, and some folders may not be read: the file is there all the same.
  }
}

/** Throws where the store is not what the file has, with both numbers. */
function checkPart(ref: FileRef, size: number): void {
  const rest = Math.max(0, size - ref.offset);
  if (size > 0 && ref.offset >= size) {
    throw outOfRange(`file(): offset ${ref.offset} is past the end of ${ref.path}, which has ${size} bytes`);
  }
  if (size > 0 && ref.byteLength !== undefined && ref.byteLength > rest) {
    throw outOfRange(
      `file(): byteLength ${ref.byteLength} is more than the ${rest} bytes that ${ref.path} has from offset ${ref.offset}`,
    );
  }
}

/** Bytes of the open file, which is a regular one. */
function lengthOf(fd: number, ref: FileRef): number {
  const stats = fstatSync(fd);
  if (!stats.isFile()) {
    const what = `${ref.path} cannot be mapped: it is ${kindOf(stats)}, and only regular files can be`;
    throw new StoreError('ERR_PAGEFAULT_STORE_OPEN', what, stats.isDirectory() ? { errno: 21 } : {}); // EISDIR
  }
  if (stats.size > 0 || ref.create === undefined) return stats.size;
  fillWithZeroes(fd, ref.path, ref.create);
  return ref.create;
}

/** Opens the file, for writing too with `writable`. Throws one clear sentence; nothing stays open then. */
export function openFile(ref: FileRef, writable: boolean): Source {
  if (ref.create !== undefined && !writable) {
    throw wrongType('map(): a file is made only to be written: file(path, { create }) needs writable: true');
  }
  let fd: number | undefined;
  try {
    fd = openPath(ref, writable);
    const size = lengthOf(fd, ref);
    checkPart(ref, size);
    return sourceOf(fd, ref, size === 0 ? 0 : (ref.byteLength ?? size - ref.offset));
  } catch (error) {
    if (fd !== undefined) closeSync(fd);
    if ((error as NodeJS.ErrnoException).syscall === undefined || error instanceof StoreError) throw error;
    throw cannotOpen(ref, error, writable);
  }
}

function sourceOf(fd: number, ref: FileRef, byteLength: number): Source {
  return {
    byteLength,
    pageSize: undefined,
    native: (offset) => ({
      kind: 'file',
      fd,
      offset: ref.offset + offset,
      path: ref.path,
      checkChanges: ref.onChange === 'fail',
    }),
    abandon: async () => closeSync(fd),
    given: () => closeSync(fd),
    ended: undefined,
  };
}
