/**
 * Writing lines so that their order is the order in which things happened, over several processes and threads: each line is one write(2), done
 * before the next step. Any thread; a stream of Node would hold lines back, and in a Worker would need the main thread.
 */
import { writeSync } from 'node:fs';

const RETRY_MS = 1;
const waiting = new Int32Array(new SharedArrayBuffer(4));

/** Stops this thread. */
export function sleep(ms: number): void {
  if (ms > 0) Atomics.wait(waiting, 0, 0, ms);
}

/** Writes all of it. False: nobody reads any more (EPIPE). */
export function writeOut(fd: number, text: string): boolean {
  let rest = Buffer.from(text);
  while (rest.byteLength > 0) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      // A pipe that somebody has made non-blocking, and whose reader is slow.
      if (code === 'EAGAIN') sleep(RETRY_MS);
      else if (code === 'EPIPE') return false;
      else throw error;
    }
  }
  return true;
}
