/** Whether a working set belongs to a snapshot. Any thread. */

import { WorkingSetError } from '../../errors/working-set-error.js';
import { formatSize } from '../../options/sizes.js';
import type { SnapshotFacts, WorkingSet } from './working-set.js';

/**
 * Why the working set must not be used with this snapshot, as an error to throw or to tell; undefined where it may be. Its pages
 * are known to lie within the length that it names, so that they lie in the snapshot, too, when this says nothing.
 */
export function distrust(set: WorkingSet, snapshot: SnapshotFacts): WorkingSetError | undefined {
  const what = set.path === undefined ? 'the working set' : `the working set ${set.path}`;
  const foreign = (sentence: string): WorkingSetError =>
    new WorkingSetError('ERR_PAGEFAULT_WORKING_SET_FOREIGN', `${what} is not used: ${sentence}`, { path: set.path });
  if (set.byteLength !== snapshot.byteLength) {
    return foreign(
      `it was recorded of another snapshot, of ${formatSize(set.byteLength)}; this one has ${formatSize(snapshot.byteLength)}`,
    );
  }
  if (set.identity !== snapshot.identity) {
    return foreign(
      `it was recorded of another snapshot (${set.identity.slice(0, 16)}…, and this is ${snapshot.identity.slice(0, 16)}…), or the snapshot was changed`,
    );
  }
  if (set.pageSize !== snapshot.pageSize) {
    return foreign(`it was recorded with pages of ${formatSize(set.pageSize)}, not ${formatSize(snapshot.pageSize)}`);
  }
  return undefined;
}
