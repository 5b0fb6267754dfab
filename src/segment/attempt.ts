/** Raw touches whose failure becomes an error instead of the end of the process. Any thread. */

import { shown, wrongType } from '../errors/argument.js';
import { native } from '../native/load.js';
import { failureError, type Region } from './region.js';

/** Hangs what `fn` threw behind the last cause of the failure, because it is most likely a consequence. */
function chain(error: Error, thrown: unknown): void {
  let last: Error = error;
  while (last.cause instanceof Error) last = last.cause;
  if (last.cause === undefined) last.cause = thrown;
}

/** See `Segment.attempt`. */
export function runAttempt<R>(region: Region, fn: () => R): R {
  if (typeof fn !== 'function') throw wrongType(`attempt(): fn must be a function, not ${shown(fn)}`);
  let result: R | undefined;
  let thrown: { error: unknown } | undefined;
  region.call((core) => core.attemptBegin());
  try {
    result = fn();
  } catch (error) {
    thrown = { error };
  }
  // Not through region.call: fn may have closed the segment, and what was begun must end.
  const failure = native().attemptEnd();
  if (failure !== null) {
    const error = failureError(failure);
    if (thrown !== undefined) chain(error, thrown.error);
    throw error;
  }
  if (thrown !== undefined) throw thrown.error;
  const { then } = (typeof result === 'object' && result !== null ? result : {}) as { then?: unknown };
  if (typeof then === 'function') {
    throw wrongType('attempt(): fn must be synchronous, and it returned a promise; await before or after attempt');
  }
  return result as R;
}
