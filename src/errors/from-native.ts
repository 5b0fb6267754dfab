/** Turns what the C core throws and reports into the public classes. Any thread. */

import { getSystemErrorMap } from 'node:util';
import type { NativeFailure } from '../native/binding.js';
import { deserializeCause } from './cause.js';
import { ClosedError } from './closed-error.js';
import type { PageErrorCode, PagefaultErrorCode } from './codes.js';
import { PageError } from './page-error.js';
import { PagefaultError } from './pagefault-error.js';
import { StaleHandleError } from './stale-handle-error.js';
import { SystemError } from './system-error.js';
import { UnsupportedError } from './unsupported-error.js';

/** The segment that an error is about, as far as it is known. */
export interface Where {
  name: string;
  pageSize: number;
}

/** 'EIO' and 'i/o error' for 5; a number that the system does not know is told as it is. */
export function errnoNames(errno: number): { code: string; description: string } {
  const [code, description] = getSystemErrorMap().get(-errno) ?? [`errno ${errno}`, 'unknown error'];
  return { code, description };
}

/** An error as Node's own `fs` makes it, for an errno that the core reports. */
export function errnoError(errno: number, syscall: string): Error {
  const { code, description } = errnoNames(errno);
  return Object.assign(new Error(`${code}: ${description}, ${syscall}`), { code, errno: -errno, syscall });
}

/** The system call that an errno is of. */
function syscallOf(code: string): string {
  if (code === 'ERR_PAGEFAULT_STORE_WRITE') return 'write';
  return code === 'ERR_PAGEFAULT_STORE_SYNC' ? 'fdatasync' : 'read';
}

/** The sentence, and what the system said. */
function withErrno({ errno, message }: NativeFailure): string {
  if (errno === 0) return message;
  const { code, description } = errnoNames(errno);
  return `${message} (${code}: ${description})`;
}

/** The error that stands for a page that could not be had or written, or for a store that could not sync. */
export function toPageError(failure: NativeFailure, where: Where | undefined): PagefaultError {
  const { code, errno, offset } = failure;
  const name = where?.name ?? 'unknown';
  if (code === 'ERR_PAGEFAULT_CLOSED') return new ClosedError(name);
  const thrown = deserializeCause(failure.cause);
  const cause = thrown ?? (errno > 0 ? errnoError(errno, syscallOf(code)) : undefined);
  const message = thrown === undefined ? withErrno(failure) : failure.message;
  const details = { cause, segment: where?.name, errno: errno > 0 ? errno : undefined };
  if (where === undefined) return new PageError(code as PageErrorCode, message, { ...details, offset });
  if (code === 'ERR_PAGEFAULT_STORE_SYNC') return new PageError(code, `segment "${name}": ${message}`, details); // of no page
  return new PageError(code as PageErrorCode, `page at offset ${offset} of segment "${name}": ${message}`, {
    ...details,
    offset,
    page: Math.floor(offset / where.pageSize),
  });
}

interface NativeError extends Error {
  code?: string;
  errno?: number;
  syscall?: string;
  failure?: NativeFailure;
}

/** The public form of an error that the core threw. Anything else comes back as it is. */
export function fromNative(error: unknown, where?: Where): unknown {
  // Subclasses are ours or the runtime's: the core throws plain Errors.
  if (!(error instanceof Error) || Object.getPrototypeOf(error) !== Error.prototype) return error;
  const { code, errno, syscall, failure, message } = error as NativeError;
  if (failure !== undefined) return toPageError(failure, where);
  const name = where?.name ?? 'unknown';
  switch (code) {
    case 'ERR_PAGEFAULT_CLOSED':
      return new ClosedError(name);
    case 'ERR_PAGEFAULT_STALE_HANDLE':
      return new StaleHandleError(name, message);
    case 'ERR_PAGEFAULT_UNSUPPORTED':
      return new UnsupportedError(message);
    case 'ERR_PAGEFAULT_SYSTEM':
    case 'ERR_PAGEFAULT_NO_MEMORY':
      return new SystemError(code, message, { segment: where?.name, errno, syscall });
    default:
      if (code?.startsWith('ERR_PAGEFAULT_') !== true) return error;
      return new PagefaultError(code as PagefaultErrorCode, message, { segment: where?.name, errno, syscall });
  }
}

/** Runs a call into the core and throws the public form of what it throws. */
export function guarded<R>(where: Where | undefined, call: () => R): R {
  try {
    return call();
  } catch (error) {
    throw fromNative(error, where);
  }
}
