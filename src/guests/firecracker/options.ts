/** What `serveFirecracker` is told, checked. Any thread. */

import { outOfRange, shown, wrongType } from '../../errors/argument.js';
import { checkKeys } from '../../options/keys.js';
import { parseSize, type Size } from '../../options/sizes.js';
import type { Snapshot, SnapshotSource } from '../engine/index.js';
import type { SupervisorOptions } from '../supervisor/index.js';

export interface ServeFirecrackerOptions {
  /** Path of the Unix socket to listen at: the `backend_path` of `PUT /snapshot/load`. */
  socket: string;
  /**
   * The memory of the snapshot: the memory file; or several, the full one first and then diffs, whose holes show what is below; or any store, or an open segment. `memory` or
   * `snapshot` must be given.
   */
  memory?: SnapshotSource;
  /** A snapshot that is open already, and stays the caller's: several servers may have it. */
  snapshot?: Snapshot;
  /**
   * What becomes of a VM when a page cannot be had: it is killed (SIGKILL), or its thread waits until `retry()`. It never reads zeroes instead.
   * @default 'kill'
   */
  onFailure?: 'kill' | 'park';
  /**
   * How long a page may take before it is given up.
   * @default 30000
   */
  faultTimeoutMs?: number;
  /**
   * How long somebody who connects may take for a handshake.
   * @default 10000
   */
  handshakeTimeoutMs?: number;
  /** A file that gets the pages that the VMs touch first, in that order: the working set. What it has of this snapshot is kept. */
  record?: string;
  /** A working set that was recorded, whose pages are loaded ahead into each VM, behind what the VM asks for. One of another snapshot is not used. */
  replay?: string;
  /** How much of a working set is kept and loaded ahead: bytes or '256MiB'. @default 1 GiB */
  cap?: Size;
  /** Threads that serve, 1 to 16; all servers of a process share the largest number. @default the processors, at most 4 */
  threads?: number;
  /**
   * Permissions of the socket: who may write to it may connect.
   * @default 0o600
   */
  mode?: number;
  /** Whose the socket is to be, where the VM runs as somebody else (the jailer's `--uid` and `--gid`). Needs CAP_CHOWN. */
  owner?: { uid: number; gid: number };
  /**
   * A supervisor keeps the VMs when this process crashes or is upgraded: the path of its socket, or more. The next `serveFirecracker` with the same
   * path and snapshot goes on with them; where none comes in time they are killed.
   */
  supervise?: string | Supervision;
  /** Closes the server. */
  signal?: AbortSignal;
}

export interface Supervision extends SupervisorOptions {
  /** The supervisor's socket. One is started where nobody listens. */
  path: string;
}

const KNOWN: readonly (keyof ServeFirecrackerOptions)[] = [
  'socket',
  'memory',
  'snapshot',
  'onFailure',
  'faultTimeoutMs',
  'handshakeTimeoutMs',
  'record',
  'replay',
  'cap',
  'threads',
  'mode',
  'owner',
  'supervise',
  'signal',
];

const WHO = 'serveFirecracker()';
const MOST_ID = 2 ** 32 - 2;
const MOST_MS = 2 ** 31 - 1;

/** The options with their defaults. */
export interface CheckedOptions {
  readonly socket: string;
  readonly onFailure: 'kill' | 'park';
  readonly faultTimeoutMs: number;
  readonly handshakeTimeoutMs: number;
  readonly record: string | undefined;
  readonly replay: string | undefined;
  readonly capBytes: number | undefined;
  readonly threads: number | undefined;
  readonly mode: number;
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
  readonly supervise: Supervision | undefined;
}

function whole(name: string, value: unknown, least: number, most: number, unit = ''): number {
  if (Number.isInteger(value) && Number(value) >= least && Number(value) <= most) return Number(value);
  throw outOfRange(`${WHO}: ${name} must be a whole number${unit} from ${least} to ${most}, not ${shown(value)}`);
}

function path(name: string, value: unknown): string | undefined {
  if (value === undefined) return undefined;
  if (typeof value === 'string' && value !== '' && !value.includes('\0')) return value;
  throw wrongType(`${WHO}: ${name} must be the path of a file, not ${shown(value)}`);
}

function checkSource({ memory, snapshot }: ServeFirecrackerOptions): void {
  if (memory === undefined && snapshot === undefined) {
    throw wrongType(`${WHO}: there is no memory; such as memory: 'vm.mem', or snapshot: await Snapshot.open('vm.mem')`);
  }
  if (memory !== undefined && snapshot !== undefined) {
    throw wrongType(`${WHO}: memory and snapshot are two ways to say the same: give one of them`);
  }
  if (typeof memory === 'string') path('memory', memory);
  if (!Array.isArray(memory)) return;
  if (memory.length === 0) throw wrongType(`${WHO}: memory is an empty array: the full memory file comes first`);
  for (const layer of memory) path('memory', layer);
}

function ownerOf(owner: unknown): { uid: number; gid: number } | undefined {
  if (owner === undefined) return undefined;
  checkKeys(`${WHO}, option 'owner'`, owner, ['uid', 'gid']);
  const { uid, gid } = owner as { uid?: unknown; gid?: unknown };
  return { uid: whole('owner.uid', uid, 0, MOST_ID), gid: whole('owner.gid', gid, 0, MOST_ID) };
}

function supervisionOf(supervise: unknown): Supervision | undefined {
  if (supervise === undefined) return undefined;
  const given = typeof supervise === 'string' ? { path: supervise } : supervise;
  checkKeys(`${WHO}, option 'supervise'`, given, ['path', 'deadlineMs', 'takeOver']);
  const { path: at, ...options } = given as Supervision;
  if (at === undefined) throw wrongType(`${WHO}: supervise has no path`);
  return { path: path('supervise.path', at) ?? '', ...options };
}

/** Throws a TypeError or RangeError whose sentence names the option. */
export function checkOptions(options: ServeFirecrackerOptions): CheckedOptions {
  checkKeys(WHO, options, KNOWN);
  const { onFailure = 'kill', threads, cap } = options;
  if (options.socket === undefined) throw wrongType(`${WHO}: there is no socket to listen at`);
  checkSource(options);
  if (onFailure !== 'kill' && onFailure !== 'park') {
    throw wrongType(`${WHO}: onFailure must be 'kill' or 'park', not ${shown(onFailure)}`);
  }
  const milliseconds = ' of milliseconds';
  return {
    socket: options.socket,
    onFailure,
    faultTimeoutMs: whole('faultTimeoutMs', options.faultTimeoutMs ?? 30_000, 1, MOST_MS, milliseconds),
    handshakeTimeoutMs: whole('handshakeTimeoutMs', options.handshakeTimeoutMs ?? 10_000, 1, MOST_MS, milliseconds),
    record: path('record', options.record),
    replay: path('replay', options.replay),
    capBytes: cap === undefined ? undefined : parseSize(`${WHO}: cap`, cap),
    threads: threads === undefined ? undefined : whole('threads', threads, 1, 16),
    mode: whole('mode', options.mode ?? 0o600, 0, 0o777),
    owner: ownerOf(options.owner),
    supervise: supervisionOf(options.supervise),
  };
}
