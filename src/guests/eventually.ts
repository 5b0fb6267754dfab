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
}

/**
 * Calls again until it works: each event that tells of the change must have been read, and the change be over. Returns without having worked where
 * the memory has ended or is unmapped, or what was to be put there is there. Throws any other error, and this one after the deadline (ms of
 * `performance.now()`).
 */
export async function eventually(memory: Changing, deadline: number, call: () => void): Promise<void> {
  while (!memory.over) {
    try {
      call();
      return;
    } catch (error) {
      const errno = error instanceof SystemError || error instanceof UffdError ? error.errno : undefined;
      if (errno === ESRCH) memory.vanished();
      if (memory.over || errno === ENOENT || errno === EEXIST) return;
      if (errno !== EAGAIN || performance.now() > deadline) throw error;
    }
    await turn();
  }
}

/** One turn of the event loop. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
