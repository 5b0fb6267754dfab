/** Loading and flushing without blocking the event loop: a thread of the core does it, and tells this one when it is done. */

import { AsyncResource } from 'node:async_hooks';
import { shown, wrongType } from '../errors/argument.js';
import type { NativeBinding, NativeFailure } from '../native/binding.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
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

export interface FlushOptions {
  /** Ends the flushing; the promise rejects with the signal's reason, and what was not confirmed is still modified. */
  signal?: AbortSignal;
  /** Called now and then with the bytes that are written so far. */
  onProgress?: (bytesDone: number) => void;
}

/** What any of the jobs takes. */
export type JobOptions = LoadOptions & FlushOptions;

/** Checks the options of `load`, `pin` and `flush`. */
export function checkJobOptions(who: string, options: unknown, known: readonly string[]): JobOptions {
  checkKeys(who, options, known);
  const { signal, onProgress } = options as { signal?: unknown; onProgress?: unknown };
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw wrongType(`${who}: signal must be an AbortSignal, not ${shown(signal)}`);
  }
  if (onProgress !== undefined && typeof onProgress !== 'function') {
    throw wrongType(`${who}: onProgress must be a function, not ${shown(onProgress)}`);
  }
  return options as JobOptions;
}

/** Begins a job of the core and returns its number. */
type Begin = (
  core: NativeBinding,
  id: number,
  done: (failure: NativeFailure | null) => void,
  progress: ((bytes: number) => void) | undefined,
) => number;

/** The callback in the asynchronous context that it was given in: what calls it is a thread of the core. */
export function inContext(
  onProgress: ((bytesDone: number) => void) | undefined,
): ((bytesDone: number) => void) | undefined {
  return onProgress === undefined ? undefined : AsyncResource.bind(onProgress);
}

/** Runs a job. Rejects with a PageError, a ClosedError, or the signal's reason. */
export function runJob(region: Region, options: JobOptions, begin: Begin): Promise<void> {
  const { signal, onProgress } = options;
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    let job = 0;
    const abort = (): void => native().jobCancel(job);
    const done = (failure: NativeFailure | null): void => {
      signal?.removeEventListener('abort', abort);
      if (failure === null) resolve();
      else if (failure.code === 'ERR_PAGEFAULT_ABORTED' && signal?.aborted === true) reject(signal.reason);
      else reject(failureError({ ...failure, region: failure.region || region.id }));
    };
    job = region.call((core, id) => begin(core, id, done, inContext(onProgress)));
    signal?.addEventListener('abort', abort, { once: true });
  });
}
