/** Thrown where a source of pages for other processes cannot give one. Any thread. */

import type { PageSourceErrorCode } from './codes.js';
import { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';

/** The head of a message of the page server protocol. */
export interface PageMessage {
  readonly address: bigint;
  /** As the message has it: 64 bits, which may be anything. */
  readonly pageSize: bigint;
}

export interface PageSourceErrorDetails extends PagefaultErrorDetails {
  path?: string | undefined;
  address?: bigint | undefined;
  got?: number | undefined;
  expected?: number | PageMessage | undefined;
  received?: PageMessage | undefined;
}

/** What is wrong with a source, with the numbers. */
export class PageSourceError extends PagefaultError {
  declare readonly code: PageSourceErrorCode;
  /** Of the file or the socket (OPEN, and IO of a page server). */
  declare readonly path?: string;
  /** Of the page. */
  declare readonly address?: bigint;
  /** Bytes that there are (SHORT). */
  declare readonly got?: number;
  /** Bytes of a page (SHORT), or what the page server was asked for (PROTOCOL). */
  declare readonly expected?: number | PageMessage;
  /** What the page server sent in its place (PROTOCOL). */
  declare readonly received?: PageMessage;
  /** True: another try is of no use. */
  declare readonly permanent?: true;

  constructor(code: PageSourceErrorCode, message: string, details: PageSourceErrorDetails = {}) {
    super(code, message, details);
    if (details.path !== undefined) this.path = details.path;
    if (details.address !== undefined) this.address = details.address;
    if (details.got !== undefined) this.got = details.got;
    if (details.expected !== undefined) this.expected = details.expected;
    if (details.received !== undefined) this.received = details.received;
    if (code !== 'ERR_PAGEFAULT_IO') this.permanent = true;
  }
}
