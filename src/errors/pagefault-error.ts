/** The base of all errors that are not about wrong arguments. Any thread. */

import type { PagefaultErrorCode } from './codes.js';

/** What an error may say beside its sentence. */
export interface PagefaultErrorDetails {
  cause?: unknown;
  /** Name of the segment. */
  segment?: string | undefined;
  /** Byte offset in the segment. */
  offset?: number | undefined;
  /** Number of the page in the segment. */
  page?: number | undefined;
  /** Positive, as in errno.h. */
  errno?: number | undefined;
  syscall?: string | undefined;
}

/**
 * Base class of what this library throws when something cannot be done. `code` never changes its meaning; the sentence
 * in `message` may be worded better in any release.
 */
export class PagefaultError extends Error {
  readonly code: PagefaultErrorCode;
  /** Name of the segment, where the failure is of one segment. */
  declare readonly segment?: string;
  /** Byte offset in the segment. */
  declare readonly offset?: number;
  /** Number of the page in the segment. */
  declare readonly page?: number;
  /** Positive, as in errno.h. */
  declare readonly errno?: number;
  /** The system call that failed. */
  declare readonly syscall?: string;

  constructor(code: PagefaultErrorCode, message: string, details: PagefaultErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    if (details.segment !== undefined) this.segment = details.segment;
    if (details.offset !== undefined) this.offset = details.offset;
    if (details.page !== undefined) this.page = details.page;
    if (details.errno !== undefined) this.errno = details.errno;
    if (details.syscall !== undefined) this.syscall = details.syscall;
  }

  override get name(): string {
    return this.constructor.name;
  }
}
