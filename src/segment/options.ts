/** The options of `map`: what they mean, and a sentence for each that is wrong. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { checkKeys } from '../options/keys.js';
import { formatSize, parseSize } from '../options/sizes.js';
import { Budget } from './budget.js';
import { checkInto, type Into, type WasmMemory } from './into.js';
import { checkCount } from './range.js';
import { type CheckedWorkingSet, checkWorkingSet, type WorkingSetOptions } from './working-set-options.js';

export interface MapOptions {
  /**
   * Where the segment begins in the store, in bytes.
   * @default 0
   */
  offset?: number;
  /** Bytes of the segment; default up to the end of the store. */
  byteLength?: number;
  /** Bytes of a page: a power of two from the system's page size to 2 MiB. Default the store's preference, else the system's. */
  pageSize?: number;
  /**
   * How much of the segment may be in memory: bytes, '64MiB', or a `Budget` that several segments share. Default no
   * limit. Anything below four pages counts as four (and two more for each further
   * thread that faults at the same time).
   */
  resident?: number | string | Budget;
  /**
   * Bytes read ahead with each miss: a size, 0 for none, or 'auto', which grows on sequential access and reads nothing
   * ahead on random access.
   * @default 'auto'
   */
  readahead?: number | string | 'auto';
  /**
   * Writes are kept, and `flush` brings them to the store, which must be able to write. Without it a write through a view
   * ends the process with a report.
   * @default false
   */
  writable?: boolean;
  /**
   * A `byteLength` past the store's end is refused; with true the rest reads zero. What is written there stays in memory:
   * the store has no room for it.
   * @default false
   */
  pad?: boolean;
  /**
   * True: a SharedArrayBuffer, which `open` shows to other threads. False: an ArrayBuffer.
   * @default false
   */
  shared?: boolean;
  /**
   * Memory that exists, to be paged instead of memory of its own: a WebAssembly.Memory, a SharedArrayBuffer or an ArrayBuffer (the whole pages in it). What it
   * holds is dropped. It is never unmapped: once the segment is closed, a touch fails with "segment closed" until the memory is
   * given to another segment. Nothing may touch it while `map` is at work.
   */
  into?: ArrayBuffer | SharedArrayBuffer | WasmMemory;
  /**
   * How pages get in; 'auto' picks what works here. 'thread' needs a privilege: see `kernelFaults`.
   * @default 'auto'
   */
  backend?: 'auto' | 'signal' | 'mprotect' | 'memfd' | 'thread';
  /**
   * True: pages that are missing are brought to system calls, too (`fs.write` of a view, `fs.read` into it), instead of EFAULT. Picks backend 'thread', in which a
   * fault takes longer because another thread answers it, or says why this process may not: it needs root, CAP_SYS_PTRACE, the sysctl
   * vm.unprivileged_userfaultfd, or /dev/userfaultfd (Linux 6.1), opened here or lent by somebody who may (`useDevice` of pagefault/kernel).
   * @default false
   */
  kernelFaults?: boolean;
  /**
   * What a raw touch of a page that cannot be had does: ends the process with a report, or reads zeroes.
   * @default 'abort'
   */
  unreadable?: 'abort' | 'zero';
  /**
   * How long a page may take before it is given up.
   * @default 30000
   */
  faultTimeoutMs?: number;
  /**
   * A page that takes longer is told of while it is waited for: event 'stall' on every thread that has the segment open, and where a thread is stopped, a line on
   * stderr (at most one in 10 s; none with the environment variable PAGEFAULT_STALL_REPORTS=0). 0: never. Default a tenth of `faultTimeoutMs`, at least 100.
   */
  stallAfterMs?: number;
  /**
   * How often a thread of the core looks whether somebody has replaced the process's handlers of SIGBUS and SIGSEGV, and puts them back: 10 to 3,600,000. The
   * smallest of all open segments counts, in the whole process. Events are told as often, and at least once a second.
   * @default 1000
   */
  pollIntervalMs?: number;
  /**
   * A file that keeps which pages a run touches, in which order, and from which they are loaded ahead the next time, behind what is touched. A path: what is there is
   * loaded ahead, and this run is added to it when the segment is closed. See docs/working-sets.md.
   */
  workingSet?: string | WorkingSetOptions;
  /** For errors, reports and /proc/self/maps. Default the store's description. */
  name?: string;
  /** Ends the opening; the promise rejects with the signal's reason. */
  signal?: AbortSignal;
}

/** The options with their defaults, checked. What needs the store (pageSize, budget) is checked once it is open. */
export interface CheckedOptions {
  offset: number;
  byteLength: number | undefined;
  pageSize: number | undefined;
  resident: number | Budget | undefined;
  /** -1 for adaptive. */
  readahead: number;
  writable: boolean;
  pad: boolean;
  shared: boolean;
  into: Into | undefined;
  backend: 'auto' | 'signal' | 'mprotect' | 'memfd' | 'thread';
  kernelFaults: boolean;
  unreadable: 'abort' | 'zero';
  faultTimeoutMs: number;
  stallAfterMs: number;
  pollIntervalMs: number;
  workingSet: CheckedWorkingSet | undefined;
  name: string | undefined;
  signal: AbortSignal | undefined;
}

const KNOWN = [
  'offset',
  'byteLength',
  'pageSize',
  'resident',
  'readahead',
  'writable',
  'pad',
  'shared',
  'into',
  'backend',
  'kernelFaults',
  'unreadable',
  'faultTimeoutMs',
  'stallAfterMs',
  'pollIntervalMs',
  'workingSet',
  'name',
  'signal',
] as const;

const LARGEST_PAGE = 2 ** 21;
const LARGEST_READAHEAD = 2 ** 30;
const LARGEST_TIMEOUT = 2 ** 31 - 1;
const LONGEST_POLL = 3_600_000;

/** Options of the design that this release does not have yet: better a sentence than silence. */
function refuseLater(options: Record<string, unknown>): void {
  const later = (sentence: string): never => {
    throw wrongType(`map(): ${sentence}`, 'ERR_PAGEFAULT_NOT_YET');
  };
  const { backend } = options;
  if (backend === 'kernel') {
    later(`backend 'kernel' is not in this release; there are 'auto', 'signal', 'mprotect', 'memfd' and 'thread'`);
  }
}

function flag(name: string, value: unknown): boolean {
  if (value === undefined) return false;
  if (typeof value !== 'boolean') throw wrongType(`map(): ${name} must be true or false, not ${shown(value)}`);
  return value;
}

function oneOf<T extends string>(name: string, value: unknown, allowed: readonly T[], otherwise: T): T {
  if (value === undefined) return otherwise;
  if (allowed.includes(value as T)) return value as T;
  throw wrongType(`map(): ${name} must be ${allowed.map((word) => `'${word}'`).join(' or ')}, not ${shown(value)}`);
}

function readahead(value: unknown): number {
  if (value === undefined || value === 'auto') return -1;
  const bytes = parseSize("map(): readahead, unless it is 'auto',", value);
  if (bytes > LARGEST_READAHEAD) throw outOfRange(`map(): readahead must be at most 1 GiB, not ${formatSize(bytes)}`);
  return bytes;
}

function resident(value: unknown): number | Budget | undefined {
  if (value === undefined || value instanceof Budget) return value;
  if (typeof value === 'object' && value !== null) {
    throw wrongType(`map(): resident must be a size or what budget() returned, not ${shown(value)}`);
  }
  return parseSize('map(): resident', value);
}

function timeout(value: unknown): number {
  if (value === undefined) return 30_000;
  checkCount('map(): faultTimeoutMs', value, 1);
  if (value > LARGEST_TIMEOUT) throw outOfRange(`map(): faultTimeoutMs must be at most 2^31 - 1, not ${value}`);
  return value;
}

function pollInterval(value: unknown): number {
  if (value === undefined) return 1000;
  checkCount('map(): pollIntervalMs', value, 10);
  if (value > LONGEST_POLL) throw outOfRange(`map(): pollIntervalMs must be at most ${LONGEST_POLL}, not ${value}`);
  return value;
}

function stallAfter(value: unknown, timeoutMs: number): number {
  if (value === undefined) return Math.max(100, Math.floor(timeoutMs / 10));
  checkCount('map(): stallAfterMs', value, 0);
  if (value > LARGEST_TIMEOUT) throw outOfRange(`map(): stallAfterMs must be at most 2^31 - 1, not ${value}`);
  return value;
}

const BACKENDS = ['auto', 'signal', 'mprotect', 'memfd', 'thread'] as const;

function backendOf(value: unknown, kernelFaults: boolean): (typeof BACKENDS)[number] {
  const backend = oneOf('backend', value, BACKENDS, 'auto');
  if (!kernelFaults || backend === 'auto' || backend === 'thread') return backend;
  throw wrongType(`map(): kernelFaults: true needs backend 'thread' (or 'auto'), not '${backend}'`);
}

/** Checks everything that can be checked before the store is open. */
export function checkOptions(options: unknown): CheckedOptions {
  checkKeys('map()', options, KNOWN);
  const given = options as Record<string, unknown>;
  refuseLater(given);
  const { offset = 0, byteLength, pageSize, name, signal } = given;
  checkCount('map(): offset', offset, 0);
  if (byteLength !== undefined) checkCount('map(): byteLength', byteLength, 1);
  if (pageSize !== undefined && typeof pageSize !== 'number') {
    throw wrongType(`map(): pageSize must be a number of bytes, not ${shown(pageSize)}`);
  }
  if (name !== undefined && (typeof name !== 'string' || name === '' || name.length > 200 || name.includes('\0'))) {
    throw wrongType(`map(): name must be a string of 1 to 200 characters, not ${shown(name)}`);
  }
  if (signal !== undefined && !(signal instanceof AbortSignal)) {
    throw wrongType(`map(): signal must be an AbortSignal, not ${shown(signal)}`);
  }
  const faultTimeoutMs = timeout(given['faultTimeoutMs']);
  const kernelFaults = flag('kernelFaults', given['kernelFaults']);
  return {
    offset,
    byteLength,
    pageSize,
    resident: resident(given['resident']),
    readahead: readahead(given['readahead']),
    writable: flag('writable', given['writable']),
    pad: flag('pad', given['pad']),
    shared: flag('shared', given['shared']),
    into: checkInto(given['into'], given['shared']),
    backend: backendOf(given['backend'], kernelFaults),
    kernelFaults,
    unreadable: oneOf('unreadable', given['unreadable'], ['abort', 'zero'], 'abort'),
    faultTimeoutMs,
    stallAfterMs: stallAfter(given['stallAfterMs'], faultTimeoutMs),
    pollIntervalMs: pollInterval(given['pollIntervalMs']),
    workingSet: checkWorkingSet(given['workingSet']),
    name,
    signal,
  };
}

/** The page size of a segment: what was asked for, else what the store prefers, else the system's. */
export function choosePageSize(asked: number | undefined, preferred: number | undefined, system: number): number {
  const size = asked ?? preferred ?? system;
  const whose = asked === undefined ? "the store's pageSize" : 'map(): pageSize';
  const powerOfTwo = Number.isSafeInteger(size) && size > 0 && Number.isInteger(Math.log2(size));
  const unavailable = (sentence: string): never => {
    throw outOfRange(`${whose} must be ${sentence}, not ${size}`, 'ERR_PAGEFAULT_PAGE_SIZE_UNAVAILABLE');
  };
  if (!powerOfTwo) unavailable('a power of two');
  if (size < system) unavailable(`at least the system's page size of ${system}`);
  if (size > LARGEST_PAGE) unavailable(`at most 2 MiB (${LARGEST_PAGE})`);
  return size;
}

/** Throws if a budget cannot hold one page. */
export function checkBudget(limit: number, pageSize: number): void {
  if (limit >= pageSize) return;
  throw outOfRange(`map(): resident must hold at least one page of ${pageSize} bytes, not ${formatSize(limit)}`);
}
