/** The path of a supervisor: one that a dead supervisor left behind is cleared away, anything else is left alone. Any thread. */

import { lstatSync } from 'node:fs';
import { constants } from 'node:os';
import { shown } from '../../errors/argument.js';
import { SupervisorError } from '../../errors/supervisor-error.js';
import { SystemError } from '../../errors/system-error.js';
import { type UnixListener, UnixSocket } from '../../kernel/index.js';
import { listenAt } from '../listen.js';

const { ECONNREFUSED, ENOENT } = constants.errno;

/** Undefined: nobody listens there, but somebody may. */
export function connectTo(path: string): UnixSocket | undefined {
  try {
    return ownedByUs(path, UnixSocket.connect(path, { maxQueued: { byteLength: 2 ** 21, fds: 16 } }));
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    if (error.errno === ENOENT) return undefined;
    if (error.errno !== ECONNREFUSED) throw new SupervisorError(error.message, { cause: error, errno: error.errno });
    checkLeftOver(path);
    return undefined;
  }
}

/** Descriptors of guests are for nobody else. */
function ownedByUs(path: string, socket: UnixSocket): UnixSocket {
  const { uid } = socket.peer();
  const own = process.geteuid?.() ?? uid;
  if (uid === own) return socket;
  socket.close();
  throw new SupervisorError(
    `the supervisor at ${shown(path)} belongs to user ${uid}, and this process to user ${own}: choose another path`,
  );
}

/** Throws unless the file, where nobody listens, is a socket of ours, which may be cleared away. */
function checkLeftOver(path: string): void {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return;
  if (!found.isSocket()) {
    throw new SupervisorError(`there is a file at ${shown(path)} that is no socket: choose another path`);
  }
  const own = process.geteuid?.() ?? found.uid;
  if (found.uid === own) return;
  throw new SupervisorError(
    `the socket at ${shown(path)} belongs to user ${found.uid}, and this process to user ${own}: choose another path`,
  );
}

/** Listens there, for this user alone. What a dead supervisor left behind is cleared away. */
export function listenFor(path: string): UnixListener {
  try {
    return listenAt('a supervisor', path);
  } catch (error) {
    if (!(error instanceof SystemError)) throw error;
    throw new SupervisorError(error.message, { cause: error, errno: error.errno });
  }
}
