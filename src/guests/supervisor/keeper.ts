/**
 * The supervisor itself: who is connected, who is the daemon, and the guests that are held. Everything a daemon says is checked here: it may
 * be of another version, or have lost its mind, and the guests must outlive it. Main thread of the supervisor.
 */

import { reasonOf } from '../../errors/reason.js';
import { closeFd, type UnixListener, type UnixSocket, type Watch } from '../../kernel/index.js';
import { Channel } from './channel.js';
import { Door } from './door.js';
import { Held, type HeldHost } from './held.js';
import { GUEST_FDS, type Kind, type Message, numberOf, VERSION } from './protocol.js';

/** How long a connection may say nothing. */
const HELLO_MS = 10_000;
/** The end of a daemon that was killed may be told after the next one has connected. */
const GONE_MS = 500;
const MOST_CONNECTIONS = 16;
const MOST_DEADLINE_MS = 2 ** 31 - 1;
/** How long a connection waits that cannot be accepted for want of descriptors. */
const AGAIN_MS = 100;

interface Connection {
  readonly channel: Channel;
  readonly pid: number;
  timer: NodeJS.Timeout | undefined;
  /** That it has asked for; it holds from when it is the daemon. */
  deadlineMs: number;
}

export interface KeeperOptions {
  readonly deadlineMs: number;
  say(sentence: string): void;
  /** Nobody is connected, and no guest is left. */
  idle(): void;
}

export class Keeper {
  readonly #listener: UnixListener;
  readonly #options: KeeperOptions;
  readonly #guests = new Map<number, Held>();
  readonly #connections = new Set<Connection>();
  readonly #host: HeldHost;
  #watch: Watch;
  #deadlineMs: number;
  #daemon: Connection | undefined;
  /** Takes over when the daemon has gone. */
  #successor: Connection | undefined;
  #door: Door | undefined;
  #doorTimer: NodeJS.Timeout | undefined;
  #serial = 0;
  #ending = false;

  constructor(listener: UnixListener, options: KeeperOptions) {
    this.#listener = listener;
    this.#options = options;
    this.#deadlineMs = options.deadlineMs;
    const deadline = (): number => (this.#ending ? 0 : this.#deadlineMs);
    this.#host = {
      get deadlineMs(): number {
        return deadline();
      },
      say: (sentence) => options.say(sentence),
      ended: (held) => this.#ended(held),
    };
    this.#watch = listener.onReadable(() => this.#accept());
    setTimeout(() => this.#rest(), Math.max(HELLO_MS, options.deadlineMs)).unref();
  }

  /** No next daemon is waited for: SIGTERM. A daemon that is there goes on. */
  end(): void {
    this.#ending = true;
    for (const held of this.#guests.values()) held.deadlineChanged();
    if (this.#daemon === undefined) this.#closeDoor('the supervisor was told to end');
    this.#rest();
  }

  /** Guests without a daemon are killed: the supervisor itself cannot go on. */
  killOrphans(why: string): void {
    if (this.#daemon !== undefined) return;
    for (const held of this.#guests.values()) held.kill(why);
    this.#closeDoor(why);
  }

  #accept(): void {
    const socket = this.#acceptOne();
    if (socket === undefined) return;
    const { pid, uid } = socket.peer();
    const timer = setTimeout(() => this.#refuse(connection, `it said nothing for ${HELLO_MS} ms`), HELLO_MS);
    const channel = new Channel(socket, {
      heard: (message, fds, lost) => this.#heard(connection, message, fds, lost),
      ended: (why) => this.#hungUp(connection, why),
    });
    const connection: Connection = { channel, pid, timer, deadlineMs: this.#deadlineMs };
    this.#connections.add(connection);
    const own = process.geteuid?.() ?? uid;
    if (uid !== own) this.#refuse(connection, `it belongs to user ${uid}, and this supervisor to user ${own}`);
    else if (this.#connections.size > MOST_CONNECTIONS) this.#refuse(connection, 'too many are connected already');
  }

  #acceptOne(): UnixSocket | undefined {
    try {
      return this.#listener.accept({ maxQueued: { byteLength: 2 ** 21, fds: 16 } });
    } catch (error) {
      this.#options.say(reasonOf(error)); // no descriptor is to be had: the connection waits
      this.#watch.close();
      setTimeout(() => {
        if (!this.#listener.closed) this.#watch = this.#listener.onReadable(() => this.#accept());
      }, AGAIN_MS);
      return undefined;
    }
  }

  #refuse(connection: Connection, why: string): void {
    connection.channel.send({ kind: 'refused', body: { why } });
    connection.channel.close();
    this.#hungUp(connection, undefined);
  }

  #hungUp(connection: Connection, why: string | undefined): void {
    if (!this.#connections.delete(connection)) return;
    clearTimeout(connection.timer);
    if (why !== undefined) this.#options.say(`process ${connection.pid} is not listened to any more: ${why}`);
    if (connection === this.#successor) this.#successor = undefined;
    if (connection === this.#daemon) {
      const next = this.#successor;
      this.#daemon = undefined;
      this.#successor = undefined;
      this.#deadlineMs = next?.deadlineMs ?? this.#deadlineMs;
      for (const held of [...this.#guests.values()]) held.orphan();
      this.#shutDoor();
      if (next !== undefined) this.#welcome(next);
    }
    this.#rest();
  }

  #rest(): void {
    if (this.#connections.size > 0 || this.#guests.size > 0) return;
    if (this.#door?.isQuiet === true) this.#closeDoor('its daemon is gone'); // who comes this very moment does not freeze
    if (this.#door === undefined) this.#options.idle();
  }

  #ended(held: Held): void {
    if (this.#guests.get(held.id) !== held) return;
    this.#guests.delete(held.id);
    held.drop();
    this.#rest();
  }

  /* --- what a daemon says ------------------------------------------------------------------------------------------- */

  #heard(connection: Connection, message: Message, fds: readonly number[], lost: boolean): void {
    if (connection === this.#daemon && (message.kind === 'hold' || message.kind === 'listen')) {
      if (message.kind === 'hold') this.#hold(connection, message.body, fds, lost);
      else this.#listen(connection, message.body, fds);
      return;
    }
    for (const fd of fds) closeFd(fd);
    if (message.kind === 'hello') this.#hello(connection, message.body);
    else if (connection !== this.#daemon) this.#refuse(connection, 'it is not the daemon');
    else this.#order(connection, message);
  }

  #order(connection: Connection, { kind, body }: Message): void {
    const held = this.#guests.get(numberOf(body, 'id', 1, Number.MAX_SAFE_INTEGER) ?? 0);
    switch (kind) {
      case 'next':
        this.#next(connection);
        return;
      case 'take':
        this.#takeIn(connection, body);
        return;
      case 'again':
        this.#door?.again(numberOf(body, 'id', 1, Number.MAX_SAFE_INTEGER) ?? 0);
        break;
      case 'unlisten':
        this.#closeDoor('its server was closed');
        break;
      case 'serving':
        held?.serving(); // it may have ended meanwhile
        break;
      case 'drop':
        if (held !== undefined) this.#ended(held);
        break;
      default:
        this.#refuse(connection, `a daemon does not say '${kind}'`);
        return;
    }
    this.#answer(connection, 'done', {});
  }

  #answer(connection: Connection, kind: Kind, body: Message['body'], fds: readonly number[] = []): void {
    connection.channel.send({ kind, body }, fds);
  }

  #hello(connection: Connection, body: Message['body']): void {
    clearTimeout(connection.timer);
    const version = numberOf(body, 'version', 1, 2 ** 31);
    const deadlineMs = numberOf(body, 'deadlineMs', 1, MOST_DEADLINE_MS);
    if (connection === this.#daemon || connection === this.#successor) this.#refuse(connection, 'it said hello twice');
    else if (version !== VERSION) this.#refuse(connection, `it speaks version ${version}, and this one ${VERSION}`);
    else if (deadlineMs === undefined) this.#refuse(connection, 'its deadline is no number of milliseconds');
    else if (this.#ending) this.#refuse(connection, 'this supervisor was told to end');
    else {
      connection.deadlineMs = deadlineMs;
      if (this.#daemon === undefined) this.#welcome(connection);
      else this.#succeed(connection, this.#daemon, body['takeOver'] === true);
    }
  }

  /** There is a daemon: perhaps a dead one, whose end has not been told yet. */
  #succeed(connection: Connection, daemon: Connection, takeOver: boolean): void {
    if (this.#successor !== undefined) {
      this.#refuse(connection, `process ${this.#successor.pid} waits for the guests already`);
      return;
    }
    this.#successor = connection;
    if (takeOver) this.#answer(daemon, 'leave', {});
    const ms = takeOver ? connection.deadlineMs : GONE_MS;
    const hint = takeOver ? `has not let go of them within ${ms} ms` : 'serves the guests; end it, or take over';
    connection.timer = setTimeout(() => this.#refuse(connection, `process ${daemon.pid} ${hint}`), ms);
  }

  #welcome(connection: Connection): void {
    clearTimeout(connection.timer);
    this.#daemon = connection;
    this.#deadlineMs = connection.deadlineMs;
    this.#answer(connection, 'welcome', { version: VERSION, pid: process.pid, guests: this.#guests.size });
  }

  #hold(connection: Connection, body: Message['body'], fds: readonly number[], lost: boolean): void {
    const held = lost ? 'the supervisor may have no more descriptors open (ulimit -n)' : this.#take(body, fds);
    if (typeof held === 'number') {
      this.#answer(connection, 'held', { id: held });
      return;
    }
    for (const fd of fds) closeFd(fd);
    this.#answer(connection, 'refused', { why: held });
  }

  /** The guest's number, or a sentence why it is refused; its descriptors are the caller's then. */
  #take(body: Message['body'], fds: readonly number[]): number | string {
    if (fds.length !== 1 && fds.length !== GUEST_FDS) return `a guest has 1 or ${GUEST_FDS} descriptors`;
    // A guest that has handed over its memory meanwhile replaces what was held of it.
    const before = numberOf(body, 'id', 1, Number.MAX_SAFE_INTEGER);
    if (before !== undefined && !this.#guests.has(before)) return 'the guest has ended';
    const id = before ?? ++this.#serial;
    try {
      const held = new Held(id, body['guest'], fds, this.#host);
      this.#guests.get(id)?.drop();
      this.#guests.set(id, held);
      return id;
    } catch (error) {
      return reasonOf(error);
    }
  }

  #next(connection: Connection): void {
    for (const held of this.#guests.values()) {
      if (!held.orphaned) continue;
      held.offer();
      this.#answer(connection, 'guest', { id: held.id, guest: held.guest, orphanedMs: held.orphanedMs }, held.fds);
      return;
    }
    this.#answer(connection, 'none', {});
  }

  /* --- where guests connect ------------------------------------------------------------------------------------------ */

  /** The socket of the daemon before, if it is at this path; else the one that came. */
  #listen(connection: Connection, body: Message['body'], [fd, ...others]: readonly number[]): void {
    for (const other of others) closeFd(other);
    const path = body['path'];
    if (typeof path !== 'string') {
      if (fd !== undefined) closeFd(fd);
      this.#refuse(connection, 'it listens at no path');
      return;
    }
    clearTimeout(this.#doorTimer);
    const before = this.#door;
    if (before !== undefined && (before.path !== path || before.isWalledUp)) {
      this.#closeDoor('nobody listens any more where it has connected');
    }
    try {
      if (fd !== undefined && this.#door !== undefined)
        closeFd(fd); // the same one: a daemon that had lost sight of us
      else if (fd !== undefined) this.#door = new Door(fd, path, this.#options.say);
    } catch (error) {
      if (fd !== undefined) closeFd(fd);
      this.#answer(connection, 'refused', { why: reasonOf(error) });
      return;
    }
    const door = this.#door;
    if (door === undefined) {
      this.#answer(connection, 'none', {});
      return;
    }
    this.#answer(connection, 'listening', {}, fd === undefined ? [door.fd] : []);
    door.open((id, socket) => this.#answer(connection, 'connection', { id }, [socket]));
  }

  /** The daemon reads from this connection now. Until it has handed over memory, and that is held, the process dies with the daemon. */
  #takeIn(connection: Connection, body: Message['body']): void {
    const taken = this.#door?.take(numberOf(body, 'id', 1, Number.MAX_SAFE_INTEGER) ?? 0);
    if (taken?.pidfd === undefined) {
      this.#answer(connection, 'refused', { why: 'there is no such connection, or its process has ended' });
      return;
    }
    const fd = taken.pidfd.intoFd();
    const held = this.#take({ guest: { name: 'not handed over yet' } }, [fd]);
    if (typeof held === 'number') {
      this.#answer(connection, 'held', { id: held });
      return;
    }
    closeFd(fd);
    this.#answer(connection, 'refused', { why: held });
  }

  /** The daemon is gone. */
  #shutDoor(): void {
    if (this.#door === undefined) return;
    this.#door.shut();
    const ms = this.#ending ? 0 : this.#deadlineMs;
    clearTimeout(this.#doorTimer);
    this.#doorTimer = setTimeout(() => {
      this.#closeDoor(`no daemon has come within ${ms} ms`);
      this.#rest();
    }, ms);
  }

  #closeDoor(why: string): void {
    clearTimeout(this.#doorTimer);
    const door = this.#door;
    this.#door = undefined;
    door?.close(why);
  }
}
