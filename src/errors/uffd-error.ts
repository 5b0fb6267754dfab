/** Thrown by the calls of a userfaultfd that did part of their work, or none of it. Any thread. */

import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

export type UffdErrorCode =
  | 'ERR_PAGEFAULT_PARTIALLY_COPIED'
  | 'ERR_PAGEFAULT_COPY_FAILED'
  | 'ERR_PAGEFAULT_ZEROPAGE_FAILED'
  | 'ERR_PAGEFAULT_READ_EOF'
  | 'ERR_PAGEFAULT_INCOMPLETE_MESSAGE';

export interface UffdErrorDetails extends PagefaultErrorDetails {
  address?: bigint | undefined;
  copied?: number | undefined;
  read?: number | undefined;
  expected?: number | undefined;
}

/** What a userfaultfd could not do, with the numbers: how far it came, or what was read instead of a message. */
export class UffdError extends PagefaultError {
  declare readonly code: UffdErrorCode;
  /** First address that was not done. */
  declare readonly address?: bigint;
  /** Bytes in place (PARTIALLY_COPIED). */
  declare readonly copied?: number;
  /** Bytes that were read (INCOMPLETE_MESSAGE). */
  declare readonly read?: number;
  /** Bytes that a message has (INCOMPLETE_MESSAGE). */
  declare readonly expected?: number;

  constructor(code: UffdErrorCode, message: string, details: UffdErrorDetails = {}) {
    super(code, message, details);
    if (details.address !== undefined) this.address = details.address;
    if (details.copied !== undefined) this.copied = details.copied;
    if (details.read !== undefined) this.read = details.read;
    if (details.expected !== undefined) this.expected = details.expected;
  }
}
