/** Loading without blocking the event loop: a thread of the core does it, and tells this one when it is done. */

import { shown, wrongType } from '../errors/argument.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import type { Range } from './range.js';
import { failureError, type Region } from './region.js';

export interface LoadOptions {
  /** Ends the loading; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
  /** Called now and then with the bytes that are loaded so far. */
  onProgress?: (bytesDone: number) => void;
}

export interface PinOptions {
  /** Ends the loading; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** Checks the options of `load` and `pin`. */
export function checkLoadOptions(who: string, options: unknown, known: readonly string[]): LoadOptions {
  checkKeys(who, options, known);
  const { signal, onProgress } = options as { signal?: unknown; onProgress?: unknown };
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw wrongType(`${who}: signal must be an AbortSignal, not ${shown(signal)}`);
  }
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw wrongType(`${who}: onProgress must be a function, not ${shown(onProgress)}`);
  }
  return options as LoadOptions;
}

/** Loads, and with `pinned` pins, a range. Rejects with a PageError, a ClosedError, or the signal's reason. */
export function runJob(region: Region, range: Range, pinned: boolean, options: LoadOptions): Promise<void> {
  const { signal, onProgress } = options;
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const { offset, byteLength } = range;
    let job = 0;
    const abort = (): void => native().jobCancel(job);
    job = region.call((core, id) =>
      core.regionLoad(
        id,
        offset,
        byteLength,
        pinned,
        (failure) => {
          signal?.removeEventListener('abort', abort);
          if (failure === null) resolve();
          else if (failure.code === 'ERR_PAGEFAULT_ABORTED' && signal?.aborted === true) reject(signal.reason);
          else reject(failureError({ ...failure, region: failure.region || region.id }));
        },
        onProgress,
      ),
    );
    signal?.addEventListener('abort', abort, { once: true });
  });
}
