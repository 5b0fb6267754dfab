/** What went wrong with a source, as a PageSourceError. Plain functions; any thread. */

import { fileURLToPath } from 'node:url';
import type { PageSourceErrorCode } from '../errors/codes.js';
import { PageError } from '../errors/page-error.js';
import { PageSourceError, type PageSourceErrorDetails } from '../errors/page-source-error.js';
import { reasonOf } from '../errors/reason.js';
import { StoreError } from '../errors/store-error.js';
import { isPermanent } from '../pager/retry.js';
import { describeStore } from '../segment/source.js';
import type { StoreRef } from '../stores/ref.js';
import type { GuestStore } from './source.js';

/** What a source is called in errors. */
export interface SourceName {
  readonly name: string;
  /** Of its file, socket or module, where it has one. */
  readonly path: string | undefined;
}

/** A page that is wanted of a source. */
export interface WantedPage {
  readonly source: SourceName;
  readonly address: bigint;
}

/** What anything that can be a store is called. */
export function nameSource(store: GuestStore): SourceName {
  if ('kind' in store) return { name: describeStore(store), path: pathOf(store) };
  return { name: 'address' in store ? 'the segment' : 'the store', path: undefined };
}

/** The error with this code for a page. */
export function pageFailure(
  { source, address }: WantedPage,
  code: PageSourceErrorCode,
  why: string,
  details: PageSourceErrorDetails,
): PageSourceError {
  return new PageSourceError(code, `page at 0x${address.toString(16)} of ${source.name}: ${why}`, {
    address,
    ...details,
  });
}

/** The source has fewer bytes than the page. */
export function shortPage(wanted: WantedPage, got: number, expected: number, cause?: unknown): PageSourceError {
  return pageFailure(wanted, 'ERR_PAGEFAULT_SHORT', `${got} of ${expected} bytes are there`, { got, expected, cause });
}

/** The deadline is over; `last` is what the last try said. */
export function latePage(wanted: WantedPage, timeoutMs: number, last: unknown): PageSourceError {
  const why = last === undefined ? '' : `; the last try ended with: ${reasonOf(last)}`;
  return pageFailure(wanted, 'ERR_PAGEFAULT_TIMEOUT', `no answer within ${timeoutMs} ms${why}`, { cause: last });
}

function pathOf(store: StoreRef): string | undefined {
  if (store.kind === 'file' || store.kind === 'uds') return store.path;
  return store.kind === 'custom' ? fileURLToPath(store.moduleUrl) : undefined;
}

function codeOfStore({ code }: StoreError): PageSourceErrorCode {
  if (code === 'ERR_PAGEFAULT_SPAWN' || code === 'ERR_PAGEFAULT_TIMEOUT') return code;
  return code === 'ERR_PAGEFAULT_STORE_GONE' ? 'ERR_PAGEFAULT_IO' : 'ERR_PAGEFAULT_OPEN';
}

function ofPage(error: PageError, wanted: WantedPage): PageSourceError {
  // The core carries sentences, and no numbers beside them.
  const [, got, expected] = /delivered (\d+) of (\d+) bytes/.exec(error.message) ?? [];
  if (error.code === 'ERR_PAGEFAULT_SHORT_READ') return shortPage(wanted, Number(got), Number(expected), error);
  const code = error.code === 'ERR_PAGEFAULT_TIMEOUT' ? error.code : 'ERR_PAGEFAULT_IO';
  return pageFailure(wanted, code, error.message, { cause: error });
}

/** What a source threw, as a PageSourceError; wrong arguments of the store (an offset behind the end of its file) as they are. */
export function sourceFailure(error: unknown, wanted: WantedPage): Error {
  if (error instanceof PageSourceError) return error;
  if (error instanceof TypeError || error instanceof RangeError) return Object.assign(error, { permanent: true });
  if (error instanceof PageError) return ofPage(error, wanted);
  if (!(error instanceof StoreError)) {
    const failure = pageFailure(wanted, 'ERR_PAGEFAULT_IO', reasonOf(error), { cause: error });
    return isPermanent(error) ? Object.assign(failure, { permanent: true }) : failure;
  }
  return pageFailure(wanted, codeOfStore(error), error.message, { cause: error, path: wanted.source.path });
}
