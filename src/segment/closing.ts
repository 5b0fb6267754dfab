/** The end of a thread's hold of a region, and the flushes before it. Any thread. */

import { ClosedError } from '../errors/closed-error.js';
import type { Region } from './region.js';
import type { SegmentMemory } from './segment-memory.js';
import { unwatch } from './watch.js';
import { dirtyRanges, flushRange } from './writing.js';

/**
 * Drops the hold where that may be done now: another thread has the segment open and sees to what is modified, or nothing
 * is. True when the region has ended with that, undefined where it may not be dropped.
 */
function leave(region: Region, memory: SegmentMemory, discard: AbortSignal): boolean | undefined {
  if (region.writable && !discard.aborted) {
    if (region.call((core, id) => core.regionLeave(id))) return false;
    if (dirtyRanges(region, { offset: 0, byteLength: region.byteLength }).length > 0) return undefined;
  }
  return region.call((core, id) => core.regionClose(id, memory.plain, false));
}

/** One flush of everything, which `discard` ends. */
async function flush(region: Region, discard: AbortSignal): Promise<void> {
  try {
    await flushRange(region, { offset: 0, byteLength: region.byteLength }, { signal: discard });
  } catch (error) {
    if (!discard.aborted) throw error;
  }
}

/**
 * Closes a region for this thread. A writable one is flushed first, until nothing is modified, and left in the same turn,
 * before anybody could write again; not so once `discard` is aborted. Resolves to true when the region has ended for
 * everybody. Rejects with what the flush rejects with; then everything is as it was.
 */
export async function closeRegion(region: Region, memory: SegmentMemory, discard: AbortSignal): Promise<boolean> {
  let ended: boolean | undefined;
  try {
    while (ended === undefined) {
      if (region.writable && !discard.aborted) await flush(region, discard);
      ended = leave(region, memory, discard);
    }
  } catch (error) {
    if (!(error instanceof ClosedError)) throw error;
    ended = true; // it has ended already: the thread that mapped it did
  }
  region.close();
  unwatch(region);
  return ended;
}
