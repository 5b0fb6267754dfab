/**
 * Serves the memory of Firecracker VMs that are restored with the Uffd backend: listens, takes over the memory of each VM that connects, and leaves its
 * faults to the engine. The thread that made it.
 */

import { EventEmitter } from 'node:events';
import { basename } from 'node:path';
import type { GuestError } from '../../errors/guest-error.js';
import { asError } from '../../errors/reason.js';
import type { UnixListener, UnixSocket, Watch } from '../../kernel/index.js';
import { type Guest, GuestEngine, type Snapshot } from '../engine/index.js';
import { type HeldGuest, SupervisedGuests, type Supervisor } from '../supervisor/index.js';
import { type Admitted, Connection, type ConnectionHost } from './connection.js';
import type { CheckedOptions } from './options.js';
import { Refused } from './reader.js';
import type { WorkingSets } from './working-sets.js';

/** Of a {@link FirecrackerServer}. */
export interface FirecrackerEvents {
  /** A VM has handed over its memory, and is served; with `supervise`, it outlives this process from here on. */
  guest: [guest: Guest];
  /** The VM is gone, or its memory is. Its numbers can still be read. */
  gone: [guest: Guest];
  /** Somebody connected, and is not served: the sentence says why. */
  refused: [error: Error];
  /** A page cannot be had, or what the VM does with its memory cannot be followed (then there is no offset): it is killed, or parked. */
  pageerror: [error: GuestError, guest: Guest, where: { offset: number | undefined }];
  /** The working set is being loaded ahead: so many of so many pages. */
  progress: [guest: Guest, done: number, total: number];
  /** With `supervise`: another daemon has taken the VMs over. The server is closed, and they run on. */
  left: [];
  /** Something that the VMs do not suffer from: a working set of another snapshot, a file that cannot be written. */
  warning: [error: Error];
}

const RETRY_ACCEPT_MS = 100;

/**
 * Made by {@link serveFirecracker}. An open one keeps the process alive.
 */
export class FirecrackerServer extends EventEmitter<FirecrackerEvents> implements AsyncDisposable {
  /** Absolute path of the socket. */
  readonly socket: string;
  readonly snapshot: Snapshot;
  readonly #options: CheckedOptions;
  readonly #ownsSnapshot: boolean;
  readonly #engine: GuestEngine;
  readonly #listener: UnixListener;
  readonly #workingSets: WorkingSets;
  readonly #connections = new Set<Connection>();
  /** By whose connection it came; undefined: it was taken over from a daemon that is gone. */
  readonly #guests = new Map<Guest, Connection | undefined>();
  readonly #supervised: SupervisedGuests | undefined;
  /** What is told when the server has been given to whoever made it. */
  #early: (() => void)[] | undefined = [];
  readonly #stop = new AbortController();
  #watch: Watch | undefined;
  /** All of them. */
  #saves: Promise<void> = Promise.resolve();
  #closing: Promise<void> | undefined;

  /** @internal */
  constructor(
    parts: {
      snapshot: Snapshot;
      ownsSnapshot: boolean;
      listener: UnixListener;
      workingSets: WorkingSets;
      supervisor: Supervisor | undefined;
    },
    options: CheckedOptions,
  ) {
    super();
    this.snapshot = parts.snapshot;
    this.socket = parts.listener.path;
    this.#options = options;
    this.#ownsSnapshot = parts.ownsSnapshot;
    this.#listener = parts.listener;
    this.#workingSets = parts.workingSets;
    this.#engine = new GuestEngine(options.threads === undefined ? {} : { threads: options.threads });
    this.#supervised =
      parts.supervisor &&
      new SupervisedGuests(parts.supervisor, this.#engine, this.snapshot, {
        warn: (error) => this.#warn(error),
        leave: () => void this.leave().catch((error) => this.#warn(error)),
      });
    this.#listen();
  }

  /** Serves the VMs of the daemon before this one; tells of it when somebody can listen. @internal */
  async adopt(): Promise<void> {
    const { onFailure, faultTimeoutMs, record } = this.#options;
    const options = { onFailure, faultTimeoutMs, record: record !== undefined };
    for await (const guest of this.#supervised?.takeOver(options) ?? []) {
      this.#serve(guest, undefined);
      this.#replay(guest, true);
      this.#early?.push(() => this.emit('guest', guest));
    }
    setImmediate(() => {
      const early = this.#early ?? [];
      this.#early = undefined;
      for (const tell of early) tell();
    });
  }

  /** The VMs that are served now. One that has handed over several userfaultfds is in it several times. */
  get guests(): ReadonlySet<Guest> {
    return new Set(this.#guests.keys());
  }

  /**
   * With `record`: adds what the VMs have touched so far to the file, such as when they are ready. Each VM counts once: of those that were not saved
   * so, what they touched until their end, or until the server is closed.
   */
  async saveWorkingSet(): Promise<void> {
    for (const guest of this.#guests.keys()) await this.#workingSets.record(guest);
  }

  /**
   * With `supervise`: ends, and leaves the VMs to the next `serveFirecracker`, which must come before the deadline. Nobody answers their faults until then.
   * Idempotent.
   */
  leave(): Promise<void> {
    this.#closing ??= this.#close(async () => {
      await this.#supervised?.leave();
      this.#hangUp();
    }, true).then(() => this.#tell(() => this.emit('left')));
    return this.#closing;
  }

  /** Ends the VMs that still run, since nobody would answer their faults, and removes the socket. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close(async () => {
      for (const connection of [...this.#connections]) connection.finish();
      for (const guest of [...this.#guests.keys()]) await this.#end(guest);
      await this.#supervised?.close();
    }, false);
    return this.#closing;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #hangUp(): void {
    for (const connection of [...this.#connections]) connection.close();
  }

  /** `next`: a daemon goes on. */
  async #close(letGo: () => Promise<void>, next: boolean): Promise<void> {
    this.#watch?.close();
    if (this.#supervised === undefined) this.#endListening();
    else if (!next) await this.#supervised.unlisten();
    this.#stop.abort();
    await this.saveWorkingSet().catch((error) => this.#warn(error));
    await letGo();
    await this.#saves;
    await this.#engine.close();
    if (this.#ownsSnapshot) await this.snapshot.close();
  }

  /** Whoever has connected, and was not accepted yet, is ended with the others: he would freeze. */
  #endListening(): void {
    this.#listener.removeFile();
    this.#accept();
    this.#watch?.close();
    this.#listener.close();
  }

  #listen(): void {
    if (this.#supervised !== undefined) {
      this.#supervised.onConnection((socket, held) => this.#welcome(socket, held));
      return;
    }
    this.#watch = this.#listener.onReadable(() => this.#accept());
  }

  /** Whoever waits behind a table of descriptors that is full waits for it to have room. */
  #accept(): void {
    try {
      while (!this.#listener.closed) {
        const socket = this.#listener.accept();
        if (socket === undefined) break;
        this.#welcome(socket); // whoever hears of it may close the server
      }
    } catch (error) {
      this.#watch?.close();
      this.#warn(error);
      setTimeout(() => {
        if (!this.#listener.closed) this.#listen();
      }, RETRY_ACCEPT_MS);
    }
  }

  #welcome(socket: UnixSocket, held?: HeldGuest): void {
    try {
      const connection = new Connection(socket, this.#host);
      this.#connections.add(connection);
      this.#supervised?.newcomer(connection, connection.pidfd, held);
    } catch (error) {
      held?.drop().catch((thrown) => this.#warn(thrown));
      socket.close();
      this.emit('refused', asError(error));
    }
  }

  get #host(): ConnectionHost {
    return {
      snapshotLength: this.snapshot.byteLength,
      handshakeTimeoutMs: this.#options.handshakeTimeoutMs,
      admit: (connection, admitted) => this.#admit(connection, admitted),
      refused: (error) => this.emit('refused', error),
      hungUp: (connection) => this.#hungUp(connection),
      closed: (connection) => {
        this.#connections.delete(connection);
        this.#supervised?.left(connection);
      },
    };
  }

  #admit(connection: Connection, { handshake, uffd, pidfd, pid }: Admitted): void {
    for (const other of this.#guests.keys()) {
      if (other.pid === pid && overlap(other.regions, handshake.regions)) {
        throw new Refused('it hands over memory that the process has handed over before');
      }
    }
    const { onFailure, faultTimeoutMs, record } = this.#options;
    const parts = {
      uffd,
      pidfd,
      regions: handshake.regions,
      pageSize: handshake.pageSize,
      snapshot: this.snapshot,
      name: `${basename(this.socket)}:${pid}`,
      onFailure,
      faultTimeoutMs,
      record: record !== undefined,
    };
    const guest = this.#supervised?.add(parts, connection) ?? this.#engine.add(parts);
    this.#serve(guest, connection);
    this.#replay(guest);
    if (this.#supervised === undefined) this.emit('guest', guest);
    else this.#supervised.held(guest).then(() => this.#guests.has(guest) && this.emit('guest', guest));
  }

  #serve(guest: Guest, connection: Connection | undefined): void {
    this.#guests.set(guest, connection);
    guest.on('pageerror', (error: GuestError, where: { offset: number | undefined }) =>
      this.emit('pageerror', error, guest, where),
    );
    guest.once('gone', () => this.#gone(guest));
  }

  /** `takenOver`: what the daemon before has not come to. */
  #replay(guest: Guest, takenOver = false): void {
    const wanted = this.#workingSets.toReplay(guest);
    if (wanted === undefined) return;
    const pages = takenOver ? guest.missing(wanted) : wanted;
    if (takenOver && pages.length === 0) return;
    const onProgress = (done: number, total: number): void => {
      this.#tell(() => this.emit('progress', guest, done, total));
    };
    guest.replay(pages, { signal: this.#stop.signal, onProgress }).catch((error) => {
      if (this.#guests.has(guest) && !this.#stop.signal.aborted) this.#warn(error);
    });
  }

  /** The connection of a VM since 1.12 ends with it. If a process is left of it, nobody answers its faults any more. */
  #hungUp(connection: Connection): void {
    for (const [guest, its] of this.#guests) {
      if (its === connection) this.#end(guest).catch((error) => this.#warn(error));
    }
  }

  async #end(guest: Guest): Promise<void> {
    await guest.close({ kill: true });
    this.#gone(guest);
    await this.#supervised?.drop(guest); // it does not say 'gone' of what was ended here
  }

  #gone(guest: Guest): void {
    const connection = this.#guests.get(guest);
    if (!this.#guests.delete(guest)) return;
    if (![...this.#guests.values()].includes(connection)) connection?.close();
    const saved = this.#workingSets.record(guest).catch((error) => this.#warn(error));
    this.#saves = this.#saves.then(() => saved); // one that was saved before has nothing to wait for, unlike the others
    this.emit('gone', guest);
  }

  #warn(error: unknown): void {
    this.#tell(() => this.emit('warning', asError(error)));
  }

  /** Not before somebody can listen. */
  #tell(tell: () => void): void {
    if (this.#early !== undefined) this.#early.push(tell);
    else tell();
  }
}

function overlap(some: Guest['regions'], others: Guest['regions']): boolean {
  return some.some((a) =>
    others.some((b) => a.address < b.address + BigInt(b.byteLength) && b.address < a.address + BigInt(a.byteLength)),
  );
}
