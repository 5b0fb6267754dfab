/**
 * Holds on memory that exists. What was paged stays closed for as long as anybody can touch it, so it must not be freed before; and it is freed when nobody can,
 * as memory always is. One table a thread.
 */

import { isMainThread } from 'node:worker_threads';
import { UnsupportedError } from '../errors/unsupported-error.js';
import { native } from '../native/load.js';

const RETRY_MS = 1000;

/** By what has the memory: a buffer, or a WebAssembly.Memory. */
const held = new WeakMap<object, number>();

/** Memory that the core could not take hold of. It must never be collected. */
const kept = new Set<object>();

/** Holds whose buffer is gone, while other buffers or threads still have the memory. */
const ending = new Set<number>();
let timer: NodeJS.Timeout | undefined;

function endHolds(): void {
  for (const hold of ending) if (native().memoryRelease(hold)) ending.delete(hold);
  if (ending.size === 0) {
    clearInterval(timer);
    timer = undefined;
  } else timer ??= setInterval(endHolds, RETRY_MS).unref();
}

const collected = new FinalizationRegistry<number>((hold) => {
  ending.add(hold);
  endHolds();
});

/** Sees to it that the memory of `owner`, whose buffer this is, outlives everything that may touch it. Returns the core's number of the hold. */
export function holdMemory(owner: object, buffer: ArrayBufferLike): number {
  const known = held.get(owner);
  if (known !== undefined) return known;
  const hold = native().memoryHold(new Uint8Array(buffer));
  if (hold === 0 && !isMainThread) {
    throw new UnsupportedError(
      'map(): this runtime gives no way to keep memory that a Worker made when the Worker ends, so into works on the main thread only',
    );
  }
  held.set(owner, hold);
  if (hold === 0) kept.add(owner);
  else collected.register(owner, hold);
  return hold;
}
