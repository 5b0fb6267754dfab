/** `open`: the same segment on another thread. */

import { fromNative } from '../errors/from-native.js';
import { native } from '../native/load.js';
import { checkHandle, checkOrigin, type SegmentHandle } from './handle.js';
import { Region } from './region.js';
import { Segment } from './segment.js';

/** The bytes of the buffer that are the segment's, for the core to see where they lie. Memory that grows may have fewer so far. */
function startOf({ buffer, bufferOffset, byteLength }: SegmentHandle): Uint8Array {
  if (bufferOffset < 0 || bufferOffset > buffer.byteLength) return new Uint8Array(0);
  return new Uint8Array(buffer, bufferOffset, Math.max(0, Math.min(byteLength, buffer.byteLength - bufferOffset)));
}

/**
 * Opens a segment that another thread has mapped with `shared: true`. It lives until every thread has closed it.
 *
 * @example
 * const segment = await open(workerData.handle);
 */
export async function open(handle: SegmentHandle): Promise<Segment> {
  checkHandle(handle);
  checkOrigin(handle);
  const { segment: id, name, byteLength, pageSize, writable, address, backend, backendReason } = handle;
  const { buffer, bufferOffset, memory: wasm } = handle;
  try {
    native().regionAcquire(id, address, byteLength, pageSize, writable, startOf(handle));
  } catch (error) {
    throw fromNative(error, { name, pageSize });
  }
  const region = new Region({ id, name, byteLength, pageSize, writable });
  const held = { buffer, bufferOffset, wasm, exists: true };
  return new Segment({ region, ...held, address, backend, backendReason, ended: undefined });
}
