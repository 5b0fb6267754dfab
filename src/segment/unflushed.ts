/** What is said when bytes that were written to a segment will not reach its store. Any thread. */

import { native } from '../native/load.js';
import type { Region } from './region.js';

/** Closes the region of a segment that was collected, and warns of what is lost with it. */
export function closeCollected({ id, name, writable }: Region): void {
  const modified = writable ? native().regionUnflushed(id) : '';
  const ended = native().regionClose(id, undefined, false);
  const lost = ended ? modified : writable ? native().regionTakeLost(id) : '';
  if (lost === '') return;
  process.emitWarning(`segment "${name}" was collected without having been closed: ${lost}`, {
    type: 'PagefaultWarning',
    code: 'ERR_PAGEFAULT_UNFLUSHED',
  });
}

/** At the end of the process: one line for each segment that was written to and not flushed. */
export function reportAtExit(regions: Iterable<Region>): void {
  for (const { id, writable, closed } of regions) {
    if (writable && !closed) native().regionReportUnflushed(id);
  }
}
