/** What became of a process, and the names of signals. Plain data, any thread. */

import { constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { CHILD_CODE } from '../native/kernel/process.js';

/** What became of a process. `signal` is a name such as 'SIGTERM'; a real-time signal is 'SIGRTMIN+n'. */
export type ChildStatus =
  | { state: 'exited'; code: number }
  | { state: 'killed'; signal: string; coreDumped: boolean }
  | { state: 'stopped'; signal: string }
  | { state: 'continued' }
  /** It has ended, but how cannot be told: somebody else reaped it, and the kernel is older than Linux 6.15. */
  | { state: 'gone' };

/** The first real-time signal that programs may use: the C library keeps those before it. */
const SIGRTMIN = 34;
const SIGNALS_MAX = 64;

const names = new Map<number, string>();
for (const [name, number] of Object.entries(constants.signals)) {
  if (!names.has(number)) names.set(number, name); // SIGABRT before SIGIOT, SIGIO before SIGPOLL
}

/** 'SIGTERM' for 15. */
export function signalName(number: number): string {
  return names.get(number) ?? (number >= SIGRTMIN ? `SIGRTMIN+${number - SIGRTMIN}` : `signal ${number}`);
}

/** The number of a signal given by its name or number. `least` 0 allows the signal that only asks. */
export function signalNumber(who: string, signal: unknown, least: 0 | 1): number {
  if (typeof signal === 'string') {
    const number = (constants.signals as Record<string, number>)[signal];
    if (number !== undefined) return number;
    throw wrongType(`${who}: there is no signal ${shown(signal)}; names are as in 'SIGTERM'`);
  }
  if (typeof signal !== 'number') throw wrongType(`${who}: a signal must be a name or a number, not ${shown(signal)}`);
  if (Number.isInteger(signal) && signal >= least && signal <= SIGNALS_MAX) return signal;
  throw outOfRange(`${who}: a signal must be an integer from ${least} to ${SIGNALS_MAX}, not ${shown(signal)}`);
}

/** How a process ended, to follow its name in a sentence. */
export function describeEnd(status: ChildStatus): string {
  if (status.state === 'exited') return `exited with code ${status.code}`;
  return status.state === 'killed' ? `was killed by ${status.signal}` : 'has ended, and how cannot be told';
}

/** The status that `si_code` and `si_status` of a SIGCHLD tell; undefined for a trap of a debugger. */
export function childStatus(code: number, status: number): ChildStatus | undefined {
  switch (code) {
    case CHILD_CODE.exited:
      return { state: 'exited', code: status };
    case CHILD_CODE.killed:
      return { state: 'killed', signal: signalName(status), coreDumped: false };
    case CHILD_CODE.dumped:
      return { state: 'killed', signal: signalName(status), coreDumped: true };
    case CHILD_CODE.stopped:
      return { state: 'stopped', signal: signalName(status) };
    case CHILD_CODE.continued:
      return { state: 'continued' };
    default:
      return undefined;
  }
}
