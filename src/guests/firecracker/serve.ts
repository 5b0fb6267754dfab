/** Starts a server for Firecracker VMs: whatever can be refused is refused before anybody can connect. */

import { chmodSync, chownSync } from 'node:fs';
import { resolve } from 'node:path';
import { reasonOf } from '../../errors/reason.js';
import type { UnixListener } from '../../kernel/index.js';
import { Snapshot } from '../engine/index.js';
import { listenAt } from '../listen.js';
import { Supervisor } from '../supervisor/index.js';
import { type CheckedOptions, checkOptions, type ServeFirecrackerOptions } from './options.js';
import { FirecrackerServer } from './server.js';
import { WorkingSets } from './working-sets.js';

/**
 * Serves the guest memory of Firecracker VMs from a snapshot: `PUT /snapshot/load` with `"backend_type": "Uffd"` and this socket as `backend_path`. Any
 * number of VMs may be restored from it, one after the other or at once; every release since 1.1. Linux 4.11; the VMs' own right to a userfaultfd is
 * theirs. To end a VM of another user, which is what happens when a page cannot be had, this process needs CAP_KILL.
 *
 * Listens when it resolves.
 *
 * @example
 * const server = await serveFirecracker({ socket: '/run/vm.sock', memory: 'snapshot.mem' });
 * server.on('guest', (guest) => console.log(`process ${guest.pid} is being restored`));
 */
export async function serveFirecracker(options: ServeFirecrackerOptions): Promise<FirecrackerServer> {
  const checked = checkOptions(options);
  const { memory, snapshot: given, signal } = options;
  signal?.throwIfAborted();
  const warnings: Error[] = [];
  let server: FirecrackerServer | undefined;
  const warn = (error: Error): void => {
    if (server === undefined) warnings.push(error);
    else server.emit('warning', error);
  };
  const { path: at = '', ...supervision } = checked.supervise ?? {};
  // Before the socket, which a daemon that is asked to leave still has.
  const supervisor = at === '' ? undefined : await Supervisor.connect(at, supervision);
  let listener: UnixListener | undefined;
  let snapshot = given;
  try {
    listener = supervisor === undefined ? listen(checked) : await listenOn(supervisor, checked);
    snapshot ??= await Snapshot.open(memory ?? '', { faultTimeoutMs: checked.faultTimeoutMs });
    const workingSets = await WorkingSets.open(checked, snapshot, warn);
    signal?.throwIfAborted();
    const parts = { snapshot, ownsSnapshot: given === undefined, listener, workingSets, supervisor };
    server = new FirecrackerServer(parts, checked);
    await server.adopt();
  } catch (error) {
    supervisor?.close(); // whoever waits for a daemon waits for the next one
    if (supervisor === undefined) listener?.close();
    if (given === undefined) await snapshot?.close();
    throw error;
  }
  const made = server;
  const abort = (): void => void made.close().catch(warn);
  signal?.addEventListener('abort', abort, { once: true });
  if (signal?.aborted) abort(); // while guests were taken over
  setImmediate(() => warnings.forEach(warn)); // when somebody can listen
  return server;
}

/** The socket of the daemon before, at which somebody may have connected meanwhile; or a new one. */
async function listenOn(supervisor: Supervisor, options: CheckedOptions): Promise<UnixListener> {
  let made = false;
  const listener = await supervisor.listen(resolve(options.socket), () => {
    made = true;
    return listen(options);
  });
  if (made) return listener;
  if (options.mode !== undefined) chmodSync(listener.path, options.mode);
  giveTo(listener.path, options.owner);
  return listener;
}

/** With the owner that was asked for, from the moment on that anybody may connect: nobody else could before. */
function listen({ socket, mode, owner }: CheckedOptions): UnixListener {
  const listener = listenAt('serveFirecracker()', socket, { mode });
  try {
    giveTo(listener.path, owner);
    return listener;
  } catch (error) {
    listener.close();
    throw error;
  }
}

function giveTo(path: string, owner: CheckedOptions['owner']): void {
  if (owner === undefined) return;
  try {
    chownSync(path, owner.uid, owner.gid);
  } catch (error) {
    const to = `${owner.uid}:${owner.gid}`;
    throw new Error(`serveFirecracker(): ${path} cannot be given to ${to}: ${reasonOf(error)}`, { cause: error });
  }
}
