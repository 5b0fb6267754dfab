/** A descriptor on the event loop: `native/binding_watch.c`. */
export interface NativeWatch {
  /** Calls `readable()` on this thread's loop whenever the descriptor is readable, with the time at which it was found so (ms of CLOCK_MONOTONIC), level-triggered. After a callback it looks again for up to `busyPollUs`, where that pays and no other watch of the thread does. With a `buffer`, which nobody may detach, the watch reads by itself; `got` is what read(2) gave, or -errno, never -EAGAIN. Returns the watch's number, or -errno (-EINVAL: the loop cannot watch it). */
  watchStart(
    fd: number,
    readable: (at: number, got: number) => void,
    busyPollUs: number,
    buffer: Uint8Array | undefined,
  ): number;
  /** Never called again after this returns. Harmless when it is over. The descriptor may be closed then. */
  watchStop(watch: number): void;
  /** Whether the watch keeps the loop alive. It does at first. */
  watchRef(watch: number, keepsAlive: boolean): void;
}
