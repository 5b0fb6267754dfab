/** Why a page of a snapshot could not be had: what the core still knows of its segment's failures. The thread that has the engine. */

import { toPageError } from '../../errors/from-native.js';
import { GuestError } from '../../errors/guest-error.js';
import { native } from '../../native/load.js';
import type { Guest } from './guest.js';
import type { Snapshot } from './snapshot.js';

/** What a note of the core says. */
export interface FailedPage {
  /** In the snapshot. */
  readonly offset: number;
  /** `ERR_PAGEFAULT_…` of the reason. */
  readonly why: string;
  /** 0: none. */
  readonly errno: number;
}

/** The newest failure of the segment for this reason where the page lies. Undefined: the snapshot is of files, or newer failures have taken its place. */
function ofSegment({ offset, why }: FailedPage, byteLength: number, snapshot: Snapshot | undefined): Error | undefined {
  const segment = snapshot?.segment;
  if (segment === undefined) return undefined;
  const found = native()
    .regionTakeFailures(segment.id, 0)
    .findLast(
      (failure) =>
        failure.code === why && failure.offset < offset + byteLength && failure.offset + segment.pageSize > offset,
    );
  return found === undefined ? undefined : toPageError(found, segment);
}

/** `cause` is the store's own error; where it threw none, the page's of the segment, which says why. */
export function guestPageError(guest: Guest, snapshot: Snapshot | undefined, failed: FailedPage): GuestError {
  const { name, pid } = guest;
  const { offset, why, errno } = failed;
  const number = errno === 0 ? '' : `, errno ${errno}`;
  const error = ofSegment(failed, guest.pageSize, snapshot);
  const sentence = error === undefined ? '' : `: ${error.message}`;
  return new GuestError(
    'ERR_PAGEFAULT_GUEST_GONE',
    `the page at offset ${offset} of the snapshot of guest "${name}" (process ${pid}) cannot be had: ${why}${number}${sentence}`,
    { pid, offset, cause: error?.cause ?? error, ...(errno === 0 ? {} : { errno }) },
  );
}
