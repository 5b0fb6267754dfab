/** Answering a fault whatever stands in the way: pages that are there, partial progress, unread events, a process that is gone. Any thread. */

import { constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import type { NativeUffd } from '../native/kernel/uffd.js';
import { checkRange, pageSize, type Range } from './range.js';
import { checkTransfer, pagesFailure, sourceOf } from './uffd-failures.js';
import { modeOf } from './uffd-modes.js';

export interface ResolveOptions {
  /** Bytes, for `'zero'` and `'continue'`: whole pages. @default one page */
  byteLength?: number;
  /** The pages arrive write-protected: `copy` (5.7) and `'continue'` (6.4). @default false */
  writeProtect?: boolean;
  /** Whoever waits on the pages goes on. @default true */
  wake?: boolean;
  /**
   * Bytes that are passed over where a page is there already: of hugetlb memory the size of its pages, and `to` and the length must be multiples
   * of it. Larger than the memory's pages, pages that are missing are passed over too.
   * @default the system's page size
   */
  pageSize?: number;
}

/**
 * How far `resolve` came.
 * - `done`: all of the range is there. Pages that were there already were left as they are, and their waiters woken.
 * - `again`: an event must be read first; then call again with the rest.
 * - `unmapped`: the memory from there on is not registered (any more).
 * - `gone`: the process whose memory it is has ended.
 */
export interface Resolution {
  status: 'done' | 'again' | 'unmapped' | 'gone';
  /** Bytes dealt with, from the start of the range. */
  byteLength: number;
  /** Of these, bytes that this call put there. */
  copied: number;
  /** Of these, bytes that were there already. */
  present: number;
}

const { EAGAIN, EINVAL, ENOENT, ESRCH, ENOSPC } = constants.errno;
const COPY = 0;
const ZERO = 1;
const CONTINUE = 2;
const CALLS = ['copy', 'zeropage', 'continue'] as const;
const KEYS = ['byteLength', 'writeProtect', 'wake', 'pageSize'];

/** dealt with, copied, present: written by each call, read at once. One a thread. */
const out = new Float64Array(3);

function statusOf(errno: number): Resolution['status'] | undefined {
  if (errno === 0) return 'done';
  if (errno === EAGAIN) return 'again';
  if (errno === ENOENT) return 'unmapped';
  return errno === ESRCH || errno === ENOSPC ? 'gone' : undefined;
}

/** Throws if an argument is the reason for a refusal. Runs only after one. */
function check(to: bigint, source: unknown, options: ResolveOptions, byteLength: unknown): void {
  if (source !== 'zero' && source !== 'continue') {
    checkTransfer('resolve', to, source);
  } else if (source === 'zero' && options.writeProtect === true) {
    throw wrongType("resolve: 'zero' cannot arrive write-protected; call writeProtect afterwards");
  }
  checkRange('resolve', { address: to, byteLength });
}

/** Before the call: where nothing is missing, the kernel would not see that the step is wrong. */
function checkStep(to: bigint, byteLength: number, step: unknown): asserts step is number {
  const least = pageSize();
  if (typeof step !== 'number' || !Number.isSafeInteger(step) || step < least || !Number.isInteger(Math.log2(step))) {
    throw outOfRange(`resolve: option 'pageSize' must be a power of two of at least ${least}, not ${shown(step)}`);
  }
  checkRange('resolve', { address: to, byteLength });
  if (to % BigInt(step) === 0n && byteLength % step === 0) return;
  throw outOfRange(
    `resolve: ${byteLength} bytes at 0x${to.toString(16)} are no whole pages of the option 'pageSize', ${step} bytes`,
  );
}

/** The mode bits. */
function optionsMode(source: unknown, options: ResolveOptions): number {
  const mode = modeOf('resolve', options, KEYS);
  if (options.byteLength !== undefined && typeof source !== 'string') {
    throw wrongType("resolve: the option 'byteLength' is for 'zero' and 'continue'; a source has its own");
  }
  return mode;
}

/** The loop behind `Uffd.resolve`. */
export function resolve(
  core: NativeUffd,
  fd: number,
  to: bigint,
  source: Uint8Array | Range | 'zero' | 'continue',
  options: ResolveOptions | undefined,
): Resolution {
  let mode = 0;
  let byteLength = typeof source === 'string' ? pageSize() : source?.byteLength;
  let step = pageSize();
  if (options !== undefined) {
    mode = optionsMode(source, options);
    if (options.pageSize !== undefined) step = options.pageSize;
    byteLength = options.byteLength ?? (typeof source === 'string' ? step : byteLength);
    if (options.pageSize !== undefined) checkStep(to, byteLength, step);
  }
  if (source instanceof Uint8Array && source.byteLength === byteLength) {
    // Nearly always one plain copy is all; its call has half the arguments. What it leaves undone is the loop's.
    const copied = core.uffdCopy(fd, to, source, byteLength, mode);
    if (copied === byteLength) return { status: 'done', byteLength, copied, present: 0 };
    if (copied > 0) return resolveRest(core, fd, to, source, step, mode, copied);
  }
  const what = source === 'zero' ? ZERO : source === 'continue' ? CONTINUE : COPY;
  const from = typeof source === 'string' ? 0n : sourceOf(source);
  const errno =
    what === COPY && typeof source === 'string'
      ? EINVAL
      : -core.uffdResolve(fd, what, to, from, byteLength, step, mode, out);
  const status = statusOf(errno);
  const dealt = out[0] ?? 0;
  if (status !== undefined) return { status, byteLength: dealt, copied: out[1] ?? 0, present: out[2] ?? 0 };
  check(to, source, options ?? {}, byteLength);
  throw pagesFailure(CALLS[what] ?? 'resolve', to, dealt, byteLength, errno);
}

/** Goes on behind what was copied. */
function resolveRest(
  core: NativeUffd,
  fd: number,
  to: bigint,
  source: Uint8Array,
  step: number,
  mode: number,
  copied: number,
): Resolution {
  const { byteLength } = source;
  const from = source.subarray(copied);
  const errno = -core.uffdResolve(fd, COPY, to + BigInt(copied), from, byteLength - copied, step, mode, out);
  const status = statusOf(errno);
  const dealt = copied + (out[0] ?? 0);
  if (status === undefined) throw pagesFailure('copy', to, dealt, byteLength, errno);
  return { status, byteLength: dealt, copied: copied + (out[1] ?? 0), present: out[2] ?? 0 };
}
