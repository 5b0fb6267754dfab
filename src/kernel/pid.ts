/** Process ids as arguments. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';

const MAX_PID = 2 ** 22; // PID_MAX_LIMIT

/** Throws unless `pid` is a number that one process can have. */
export function checkPid(who: string, pid: unknown): asserts pid is number {
  if (typeof pid !== 'number') throw wrongType(`${who}: a process id must be a number, not ${shown(pid)}`);
  if (!Number.isInteger(pid) || pid < 1 || pid > MAX_PID) {
    throw outOfRange(`${who}: a process id must be an integer from 1 to ${MAX_PID}, not ${shown(pid)}`);
  }
}
