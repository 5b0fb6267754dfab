/** `open`: the same segment on another thread. */

import { fromNative } from '../errors/from-native.js';
import { native } from '../native/load.js';
import { checkHandle, type SegmentHandle } from './handle.js';
import { Region } from './region.js';
import { Segment } from './segment.js';

/**
 * Opens a segment that another thread has mapped with `shared: true`. It lives until every thread has closed it.
 *
 * @example
 * const segment = await open(workerData.handle);
 */
export async function open(handle: SegmentHandle): Promise<Segment> {
  checkHandle(handle);
  const { segment: id, name, byteLength, pageSize, buffer, address, backend, backendReason } = handle;
  try {
    native().regionAcquire(id);
  } catch (error) {
    throw fromNative(error, { name, pageSize });
  }
  const region = new Region(id, name, byteLength, pageSize);
  return new Segment({ region, buffer, address, backend, backendReason, ended: undefined });
}
