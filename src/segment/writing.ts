/** What writing to a segment needs beside its buffer. Any thread. */

import { shown, wrongType } from '../errors/argument.js';
import { type JobOptions, runJob } from './jobs.js';
import { checkCount, checkRange, type Range } from './range.js';
import type { Region } from './region.js';
import type { SegmentMemory } from './segment-memory.js';

/** See `Segment.write`. */
export function writeBytes(region: Region, memory: SegmentMemory, offset: number, bytes: Uint8Array): void {
  checkCount('write(): offset', offset, 0);
  if (!(bytes instanceof Uint8Array)) throw wrongType(`write(): the bytes must be a Uint8Array, not ${shown(bytes)}`);
  const range = checkRange('write()', region.byteLength, offset, bytes.length);
  region.check();
  if (!region.writable) {
    throw wrongType(
      `write(): segment "${region.name}" is read-only; map it with writable: true`,
      'ERR_PAGEFAULT_READ_ONLY',
    );
  }
  memory.existing('write()', range, true);
  if (bytes.length > 0) region.call((core, id) => core.regionWrite(id, offset, bytes));
}

/** See `Segment.dirty`. */
export function dirtyRanges(region: Region, range: Range): Range[] {
  const pairs = region.call((core, id) => {
    return range.byteLength === 0 || !region.writable ? [] : core.regionDirty(id, range.offset, range.byteLength);
  });
  const ranges: Range[] = [];
  for (let i = 0; i < pairs.length; i += 2) ranges.push({ offset: pairs[i] ?? 0, byteLength: pairs[i + 1] ?? 0 });
  return ranges;
}

/** See `Segment.flush`. */
export async function flushRange(region: Region, range: Range, options: JobOptions): Promise<void> {
  region.check();
  options.signal?.throwIfAborted();
  if (range.byteLength === 0 || !region.writable) return;
  const { offset, byteLength } = range;
  await runJob(region, options, (core, id, done, progress) => core.regionFlush(id, offset, byteLength, done, progress));
}
