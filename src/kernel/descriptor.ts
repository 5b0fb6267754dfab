/** What the classes over a file descriptor share: checking a number, naming what it is, and errors of the kernel. Any thread. */

import { readFileSync, readlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { DescriptorError } from '../errors/descriptor-error.js';
import { errnoNames } from '../errors/from-native.js';
import { PagefaultError } from '../errors/pagefault-error.js';
import { SystemError } from '../errors/system-error.js';

const MAX_FD = 0x7fffffff;

/** Why no descriptor can be had, by errno. */
export const NO_DESCRIPTOR: Readonly<Record<number, string>> = {
  [constants.errno.EMFILE]: 'no more descriptors may be open in this process (ulimit -n)',
  [constants.errno.ENFILE]: 'no more files may be open in this system (fs.file-max)',
};

/** Throws unless `fd` is a number that a descriptor can have. `who` begins the sentence. */
export function checkFd(who: string, fd: unknown): asserts fd is number {
  if (typeof fd !== 'number') throw wrongType(`${who}: a file descriptor must be a number, not ${shown(fd)}`);
  if (!Number.isInteger(fd) || fd < 0 || fd > MAX_FD) {
    throw outOfRange(`${who}: a file descriptor must be an integer from 0 to ${MAX_FD}, not ${shown(fd)}`);
  }
}

/** What a descriptor of this process is, as /proc says: a path, `socket:[123]`, `anon_inode:[pidfd]`; undefined: not open. */
export function descriptorTarget(fd: number): string | undefined {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return undefined;
  }
}

/** What /proc/self/fdinfo says of a descriptor that is open. Needs a descriptor for a moment. @throws SystemError */
export function descriptorInfo(who: string, fd: number): string {
  try {
    return readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1');
  } catch (error) {
    const errno = -((error as NodeJS.ErrnoException).errno ?? 0);
    throw systemError(
      `${who}: descriptor ${fd}: ${NO_DESCRIPTOR[errno] ?? '/proc does not tell what it is'}`,
      errno,
      'open',
    );
  }
}

/** The error for a descriptor of the wrong kind. `needed` is a noun with its article. */
export function wrongDescriptor(who: string, fd: number, needed: string): DescriptorError {
  const target = descriptorTarget(fd);
  const what = target === undefined ? 'is not open' : `is ${target}`;
  return new DescriptorError('ERR_PAGEFAULT_WRONG_DESCRIPTOR', `${who}: needs ${needed}, but descriptor ${fd} ${what}`);
}

/** The error for a system call that failed with `errno` (positive). */
export function systemError(sentence: string, errno: number, syscall: string): SystemError {
  const { code, description } = errnoNames(errno);
  return new SystemError('ERR_PAGEFAULT_SYSTEM', `${sentence} (${syscall}: ${code}, ${description})`, {
    errno,
    syscall,
  });
}

/** The error for the use of an object that was closed. `what` is its class. */
export function closedError(what: string): PagefaultError {
  return new PagefaultError('ERR_PAGEFAULT_CLOSED', `this ${what} is closed`);
}
