/** What is said when bytes that were written to a segment will not reach its store. Any thread. */

import { native } from '../native/load.js';
import type { Region } from './region.js';

/** Bytes that a region has modified; 0 where it is closed, or the kernel cannot say. */
function modifiedBytes(id: number, byteLength: number): number {
  try {
    const pairs = native().regionDirty(id, 0, byteLength);
    return pairs.reduce((sum, number, i) => (i % 2 === 1 ? sum + number : sum), 0);
  } catch {
    return 0;
  }
}

/** Closes the region of a segment that was collected, and warns of what is lost with it. */
export function closeCollected({ id, name, byteLength, writable }: Region): void {
  const modified = writable ? modifiedBytes(id, byteLength) : 0;
  const ended = native().regionClose(id, undefined, false);
  const lost = ended ? modified : writable ? native().regionTakeLost(id) : 0;
  if (lost === 0) return;
  process.emitWarning(
    `segment "${name}" was collected without having been closed: ${lost} bytes that were written to it since the last flush are lost`,
    { type: 'PagefaultWarning', code: 'ERR_PAGEFAULT_UNFLUSHED' },
  );
}

/** At the end of the process: one line for each segment that was written to and not flushed. */
export function reportAtExit(regions: Iterable<Region>): void {
  for (const { id, writable, closed } of regions) {
    if (writable && !closed) native().regionReportUnflushed(id);
  }
}
