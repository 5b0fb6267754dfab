/** Listening at a path of the file system that something else may have taken. Any thread with an event loop. */

import { lstatSync, type Stats, unlinkSync } from 'node:fs';
import { constants } from 'node:os';
import { shown } from '../errors/argument.js';
import { SystemError } from '../errors/system-error.js';
import { type ListenOptions, type Peer, UnixListener, UnixSocket } from '../kernel/index.js';

const { EADDRINUSE, ECONNREFUSED, EMFILE, ENFILE, ENOBUFS, ENOMEM } = constants.errno;
const PASSING: readonly number[] = [EMFILE, ENFILE, ENOBUFS, ENOMEM];

/** Who listens at a socket; 'nobody': a process that is gone has left the file behind. */
function listenerAt(path: string): Peer | 'nobody' | 'unknown' {
  try {
    const socket = UnixSocket.connect(path);
    const peer = socket.peer();
    socket.close();
    return peer;
  } catch (error) {
    const errno = error instanceof SystemError ? error.errno : undefined;
    return errno === ECONNREFUSED ? 'nobody' : 'unknown'; // EAGAIN: its queue is full; EACCES; EPROTOTYPE: not a stream
  }
}

function kindOf(stats: Stats): string {
  if (stats.isDirectory()) return 'a directory';
  if (stats.isSymbolicLink()) return 'a symbolic link';
  return stats.isFile() ? 'a file' : 'neither a file nor a socket';
}

/** Why the path cannot be had; undefined: it can, because what is there was left behind by a process of this user. */
function obstacle(path: string, stats: Stats): string | undefined {
  if (!stats.isSocket()) return `it is ${kindOf(stats)}, which is left as it is: take another path, or remove it`;
  const owner = process.getuid?.();
  if (stats.uid !== owner) return `it is a socket of another user (uid ${stats.uid}, this process has ${owner})`;
  const peer = listenerAt(path);
  if (peer === 'nobody') return undefined;
  if (peer === 'unknown') return 'a socket is there, and whether anybody uses it cannot be told';
  return `process ${peer.pid} listens there`;
}

function taken(who: string, path: string, why: string): SystemError {
  const details = { errno: EADDRINUSE, syscall: 'bind' };
  return new SystemError('ERR_PAGEFAULT_SYSTEM', `${who}: cannot listen at ${shown(path)}: ${why}`, details);
}

/**
 * Listens at a path, for this user only unless `mode` says otherwise. A socket that a process of this user has left behind, and at which
 * nobody listens any more, is replaced; everything else that is there stays as it is.
 * @throws {SystemError} EADDRINUSE: a file, a socket of another user, or somebody listens there; ENOENT, EACCES and others of bind(2)
 * @throws {RangeError} the path has more than 107 bytes
 */
export function listenAt(who: string, path: string, options: ListenOptions = {}): UnixListener {
  const wanted = { mode: 0o600, backlog: 4096, ...options }; // the kernel takes somaxconn of them, mostly 4096
  try {
    return UnixListener.listen(path, wanted);
  } catch (error) {
    if (!(error instanceof SystemError) || error.errno !== EADDRINUSE) throw error;
  }
  const before = lstatSync(path, { throwIfNoEntry: false });
  const why = before === undefined ? undefined : obstacle(path, before);
  if (why !== undefined) throw taken(who, path, why);
  // Another process may have had the same thought: then the file is its own by now.
  const now = lstatSync(path, { throwIfNoEntry: false });
  if (now !== undefined && now.ino === before?.ino) unlinkSync(path);
  return UnixListener.listen(path, wanted);
}

/** Whether a failed `accept` may do better later: the connection waits until there is a descriptor, or memory, again. */
export function mayPass(error: unknown): boolean {
  return error instanceof SystemError && PASSING.includes(error.errno ?? 0);
}
