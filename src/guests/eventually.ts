/** Calls that the kernel refuses while the memory they are for is changing. The pager's thread. */

import { constants } from 'node:os';
import { SystemError } from '../errors/system-error.js';
import { UffdError } from '../errors/uffd-error.js';

const { EAGAIN, EEXIST, ENOENT, ESRCH } = constants.errno;

/** Whose memory it is. */
export interface Changing {
  readonly over: boolean;
  /** The memory is no more. */
  vanished(): void;
  /** It cannot finish what it has begun before it goes on (Ctrl-Z, a debugger). */
  isStopped(): boolean;
}

/** What a process that was stopped has at least, when it goes on. */
export const AFTER_STOP_MS = 5000;

/**
 * Calls again until it works: each event that tells of the change must have been read, and the change be over. False: it has not worked, because
 * the memory has ended or (a part of it) is unmapped, or what was to be put there is there. Throws any other error, and this one after the deadline (ms of
 * `performance.now()`).
 */
export async function eventually(memory: Changing, deadline: number, call: () => void): Promise<boolean> {
  let until = deadline;
  while (!memory.over) {
    try {
      call();
      return true;
    } catch (error) {
      const errno = error instanceof SystemError || error instanceof UffdError ? error.errno : undefined;
      if (errno === ESRCH) memory.vanished();
      if (memory.over || errno === ENOENT || errno === EEXIST) return false;
      if (errno !== EAGAIN) throw error;
      if (performance.now() > until) {
        if (!memory.isStopped()) throw error;
        until = performance.now() + AFTER_STOP_MS;
      }
    }
    await turn();
  }
  return false;
}

/** One turn of the event loop. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
