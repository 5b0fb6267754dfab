/** Options of the calls on pages, as the kernel's mode bits; and going on after a part. Any thread. */

import { shown, wrongType } from '../errors/argument.js';
import { checkKeys } from '../options/keys.js';
import { pagesFailure, type UffdCall } from './uffd-failures.js';

export interface WakeOption {
  /** Whoever waits on the pages goes on. @default true */
  wake?: boolean;
}

export interface WriteProtectOption {
  /** The pages arrive write-protected: the next write is a fault (or, with `wp-async`, recorded). @default false */
  writeProtect?: boolean;
}

export interface MoveOptions extends WakeOption {
  /** Pages that the source does not have are passed over instead of refused. @default false */
  allowHoles?: boolean;
}

/** Every option of the calls that has a bit. */
interface ModeOptions {
  wake?: boolean;
  writeProtect?: boolean;
  allowHoles?: boolean;
}

const DONT_WAKE = 1;
const COPY_WRITE_PROTECT = 2;
const ALLOW_HOLES = 2;
export const PROTECT = 1;
export const PROTECT_DONT_WAKE = 2;

export const WAKE: readonly string[] = ['wake'];
export const WAKE_AND_PROTECT: readonly string[] = ['wake', 'writeProtect'];
export const WAKE_AND_HOLES: readonly string[] = ['wake', 'allowHoles'];

/** The mode bits of a call. A key that is not known is refused; enumerating the keys is cheap, and the rest happens only then. */
export function modeOf(call: UffdCall, options: ModeOptions, known: readonly string[]): number {
  for (const key in options) if (!known.includes(key)) checkKeys(call, options, known);
  if (typeof options !== 'object' || options === null) checkKeys(call, options, known);
  const { wake = true, writeProtect = false, allowHoles = false } = options;
  for (const value of [wake, writeProtect, allowHoles]) {
    if (typeof value !== 'boolean') throw wrongType(`${call}: an option must be true or false, not ${shown(value)}`);
  }
  return (wake ? 0 : DONT_WAKE) | (writeProtect ? COPY_WRITE_PROTECT : 0) | (allowHoles ? ALLOW_HOLES : 0);
}

/** After a first call that did not do all: again with the rest, until it is done or the kernel says why not. */
export function goOn(
  call: UffdCall,
  to: bigint,
  byteLength: number,
  first: number,
  again: (done: number, rest: number) => number,
): number {
  let done = 0;
  for (let result = first; ; result = again(done, byteLength - done)) {
    if (result < 0) throw pagesFailure(call, to, done, byteLength, -result);
    done += result;
    if (done >= byteLength) return done;
  }
}
