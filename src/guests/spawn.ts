/** `spawnPaged`: starts a program whose memory, as far as it asks for that, comes from a store. */

import { type ChildProcess, type SpawnOptions, type StdioOptions, spawn } from 'node:child_process';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { GuestError } from '../errors/guest-error.js';
import { PidFd, UnixSocket } from '../kernel/index.js';
import { checkKeys } from '../options/keys.js';
import { parseSize } from '../options/sizes.js';
import type { Observe } from './events.js';
import { PagedProcess, type ProcessParts, type WatchStatus } from './process.js';
import { encodeHello, SOCKET_VARIABLE, WISH } from './protocol.js';
import { type GuestStore, openGuestSource } from './source.js';
import { checkReadahead, checkStrategy, type Policy, type Strategy } from './strategy.js';

export interface SpawnPagedOptions {
  /** Where the pages come from: what `pagefault/stores` makes, an open segment, or an object with `byteLength` and `read` of your own. */
  store: GuestStore;
  /**
   * When pages are brought.
   * @default 'on-demand'
   */
  strategy?: Strategy;
  /**
   * Pages that come with each page touched, in `read-ahead`.
   * @default 8
   */
  readahead?: number;
  /**
   * How much of the child's paged memory may be there at once, in `budget`: bytes or '64MiB'. At least four pages, and two more for each further
   * thread that faults.
   * @default a quarter of the store
   */
  resident?: number | string;
  /**
   * Pages come write-protected, so that first writes are seen ('written' events, `writeFaults`). Costs a fault for each.
   * @default false
   */
  trackWrites?: boolean;
  /**
   * How long a page may take before it is given up.
   * @default 30000
   */
  faultTimeoutMs?: number;
  /**
   * How long the child may take before it hands over its first memory; then it is killed. 0: as long as it likes.
   * @default 10000
   */
  handshakeTimeoutMs?: number;
  /**
   * What becomes of the child when a page cannot be had: killed (SIGKILL), or only the thread that touches the page, by SIGBUS (UFFDIO_POISON, 6.6).
   * @default 'kill'
   */
  onFailure?: 'kill' | 'poison';
  /**
   * For how many microseconds, up to 1000, the pager looks for the child's next fault before it sleeps, as long as that pays: a child that runs through
   * its memory gets its pages two to three times as fast in a virtual machine, and the pager uses the processor meanwhile. 0: never. Whoever gives it has the
   * event loop answer; threads of the core look for 50, one of them at a time.
   * @default 50
   */
  busyPollUs?: number;
  /** As in `child_process.spawn`; one more descriptor is added behind them. @default 'inherit' for each of the three */
  stdio?: StdioOptions;
  cwd?: string | URL;
  env?: NodeJS.ProcessEnv;
  argv0?: string;
  /** Kills the child. */
  signal?: AbortSignal;
  /** Hears of everything that happens, as it happens. */
  onEvent?: Observe;
  /** How the end of the child is learned where its pidfd is not to be watched. @default pidfd.onChange */
  watchStatus?: WatchStatus;
}

const KNOWN: readonly (keyof SpawnPagedOptions)[] = [
  'store',
  'strategy',
  'readahead',
  'resident',
  'trackWrites',
  'faultTimeoutMs',
  'handshakeTimeoutMs',
  'onFailure',
  'busyPollUs',
  'stdio',
  'cwd',
  'env',
  'argv0',
  'signal',
  'onEvent',
  'watchStatus',
];

interface Checked {
  readonly policy: Omit<Policy, 'residentBytes'>;
  readonly resident: number | undefined;
  readonly faultTimeoutMs: number;
  readonly handshakeTimeoutMs: number;
  readonly onFailure: 'kill' | 'poison';
  readonly busyPollUs: number | undefined;
}

function milliseconds(name: string, value: unknown, least: number): number {
  if (Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= 2 ** 31 - 1) return Number(value);
  throw outOfRange(
    `spawnPaged(): ${name} must be a whole number of milliseconds from ${least} to 2^31 - 1, not ${shown(value)}`,
  );
}

function check(command: unknown, args: unknown, options: SpawnPagedOptions): Checked {
  if (typeof command !== 'string' || command === '') {
    throw wrongType(`spawnPaged(): the command must be a string, not ${shown(command)}`);
  }
  if (!Array.isArray(args) || args.some((arg) => typeof arg !== 'string')) {
    throw wrongType(`spawnPaged(): the arguments must be an array of strings, not ${shown(args)}`);
  }
  checkKeys('spawnPaged()', options, KNOWN);
  const { strategy = 'on-demand', readahead = 8, resident, trackWrites = false, onFailure = 'kill' } = options;
  if (options.store === undefined) throw wrongType("spawnPaged(): there is no store; such as store: file('image.bin')");
  if (typeof trackWrites !== 'boolean')
    throw wrongType(`spawnPaged(): trackWrites must be a boolean, not ${shown(trackWrites)}`);
  if (onFailure !== 'kill' && onFailure !== 'poison') {
    throw wrongType(`spawnPaged(): onFailure must be 'kill' or 'poison', not ${shown(onFailure)}`);
  }
  const { busyPollUs } = options;
  if (busyPollUs !== undefined && (!Number.isInteger(busyPollUs) || busyPollUs < 0 || busyPollUs > 1000)) {
    throw outOfRange(`spawnPaged(): busyPollUs must be a whole number from 0 to 1000, not ${shown(busyPollUs)}`);
  }
  return {
    policy: {
      strategy: checkStrategy('spawnPaged()', strategy),
      readahead: checkReadahead('spawnPaged()', readahead),
      trackWrites,
    },
    resident: resident === undefined ? undefined : parseSize('spawnPaged(): resident', resident),
    faultTimeoutMs: milliseconds('faultTimeoutMs', options.faultTimeoutMs ?? 30_000, 1),
    handshakeTimeoutMs: milliseconds('handshakeTimeoutMs', options.handshakeTimeoutMs ?? 10_000, 0),
    onFailure,
    busyPollUs,
  };
}

function stdioOf(stdio: StdioOptions | undefined, fd: number): { stdio: StdioOptions; at: number } {
  const list = Array.isArray(stdio) ? [...stdio] : new Array(3).fill(stdio ?? 'inherit');
  while (list.length < 3) list.push('pipe');
  return { stdio: [...list, fd] as StdioOptions, at: list.length };
}

/**
 * Starts a program. What it hands over (`pagedMemory` of this module in a Node program, `pagefault_guest.h` in any other) is filled from the
 * store, a page at a time, when it is touched. Linux 4.3; a budget and `trackWrites` need 5.7. No privilege, as long as the child's own
 * instructions touch the memory; where its system calls do, it needs what `probe().userfaultfd.kernelFaults` names.
 *
 * Rejects when the program cannot be started. `ready` of what comes back tells of the handshake.
 *
 * @example
 * const child = await spawnPaged(process.execPath, ['guest.js'], { store: file('image.bin'), strategy: 'budget', resident: '16MiB' });
 * console.log(await child.exited); // { state: 'exited', code: 0 }
 */
export async function spawnPaged(
  command: string,
  args: readonly string[],
  options: SpawnPagedOptions,
): Promise<PagedProcess> {
  const checked = check(command, args, options);
  options.signal?.throwIfAborted();
  const source = await openGuestSource(options.store, checked.faultTimeoutMs);
  try {
    const { policy } = checked;
    const residentBytes = checked.resident ?? Math.ceil(source.byteLength / 4);
    const hello = encodeHello({
      flags: WISH.writeProtect | WISH.drops,
      storeLength: source.byteLength,
      pageSize: source.pageSize ?? 0,
      // `eager` answers when all of the store is there; a pager that is gone the child notices otherwise.
      answerMs: policy.strategy === 'eager' ? 2 ** 31 - 1 : checked.faultTimeoutMs,
    });
    const started = await start(command, args, options, hello);
    const process_ = take(started, {
      ...started,
      source,
      policy: { ...policy, residentBytes },
      faultTimeoutMs: checked.faultTimeoutMs,
      handshakeTimeoutMs: checked.handshakeTimeoutMs,
      onFailure: checked.onFailure,
      busyPollUs: checked.busyPollUs,
      observe: options.onEvent,
      watchStatus: options.watchStatus,
    });
    const abort = (): void => process_.kill('SIGKILL');
    options.signal?.addEventListener('abort', abort, { once: true });
    process_.exited.then(() => options.signal?.removeEventListener('abort', abort));
    if (options.signal?.aborted) abort();
    return process_;
  } catch (error) {
    await source.close().catch(() => {});
    throw error;
  }
}

/** Whoever cannot page it must not leave it running. */
function take(started: Started, parts: ProcessParts): PagedProcess {
  try {
    return new PagedProcess(parts);
  } catch (error) {
    started.child.kill('SIGKILL');
    started.socket.close();
    started.pidfd.close();
    throw error;
  }
}

type Started = Pick<ProcessParts, 'child' | 'pidfd' | 'socket'>;

/** The child, its pidfd and our end of its socket. Nothing of it is left when it throws. */
async function start(
  command: string,
  args: readonly string[],
  options: SpawnPagedOptions,
  hello: Uint8Array,
): Promise<Started> {
  const [socket, theirs] = UnixSocket.pair();
  socket.send(hello); // waits for the child in the socket
  const { stdio, at } = stdioOf(options.stdio, theirs.fd);
  const spawnOptions: SpawnOptions = {
    stdio,
    env: { ...(options.env ?? process.env), [SOCKET_VARIABLE]: String(at) },
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    ...(options.argv0 === undefined ? {} : { argv0: options.argv0 }),
  };
  let child: ChildProcess | undefined;
  try {
    child = spawn(command, args, spawnOptions);
    child.on('error', () => {}); // told below; later ones are of signals that did not reach it
    // Before the loop turns: libuv has not taken the child's end yet, so that its number is still its own.
    const pidfd = child.pid === undefined ? undefined : PidFd.open(child.pid);
    await started(child, command);
    if (pidfd === undefined) throw cannotStart(command, new Error('it has no process id'));
    return { child, pidfd, socket };
  } catch (error) {
    child?.kill('SIGKILL');
    socket.close();
    throw error;
  } finally {
    theirs.close();
  }
}

function started(child: ChildProcess, command: string): Promise<void> {
  return new Promise((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', (error) => reject(cannotStart(command, error)));
  });
}

function cannotStart(command: string, cause: Error): GuestError {
  return new GuestError('ERR_PAGEFAULT_GUEST_GONE', `${command} cannot be started: ${cause.message}`, { cause });
}
