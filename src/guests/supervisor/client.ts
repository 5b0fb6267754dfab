/**
 * A daemon's side of its supervisor: gives it duplicates of what its guests are made of, and takes over the guests of a daemon that died. A
 * supervisor that dies itself is replaced, and gets everything again. The daemon's thread.
 *
 *     connected ──▶ lost [#lost] ──▶ reviving [#revive]: start, say hello, give all ──▶ connected
 */

import { EventEmitter } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { outOfRange, shown, wrongType } from '../../errors/argument.js';
import { asError, reasonOf } from '../../errors/reason.js';
import { SupervisorError } from '../../errors/supervisor-error.js';
import { closeFd, type HasFd, Memfd, PidFd, Uffd, UnixListener, UnixSocket } from '../../kernel/index.js';
import { checkKeys } from '../../options/keys.js';
import { type GuestDescriptors, HeldGuest, Keep, type KeepHost, listOf } from './keep.js';
import { Line, LostLine } from './line.js';
import { GUEST_FDS, numberOf, VERSION } from './protocol.js';
import { connectTo } from './socket.js';
import { startSupervisor } from './start.js';

const CONNECT_TRIES = 20;
const HELLO_MS = 10_000;
const AGAIN_MS = 1000;
const ROOM_MS = 100;
/** How long a guest waits for a supervisor that is being replaced. */
const REVIVAL_MS = 10_000;
const MOST_DEADLINE_MS = 2 ** 31 - 1 - HELLO_MS;

export interface SupervisorOptions {
  /**
   * Milliseconds that guests wait for the next daemon before they are killed. Of several daemons the last one's holds.
   * @default 30000
   */
  deadlineMs?: number;
  /**
   * Where another daemon serves the guests: true asks it to leave, and waits for that as long as `deadlineMs`; false is refused.
   * @default false
   */
  takeOver?: boolean;
}

/** A guest whose daemon died. The objects are the receiver's. */
export interface Orphan {
  readonly uffd: Uffd;
  readonly pidfd: PidFd;
  readonly states: Memfd;
  /** As the daemon before gave it to `hold`. */
  readonly guest: unknown;
  /** How long nobody has served it, in milliseconds. */
  readonly orphanedMs: number;
  readonly held: HeldGuest;
}

/** Of a {@link Supervisor}. */
export interface SupervisorEvents {
  /** Another daemon wants to take over: stop serving, kill nobody, `close()`. */
  leave: [];
  /** The supervisor has died, or cannot be replaced yet, or does not hold a guest any more. */
  lost: [error: Error];
  /** Another one holds everything again. */
  back: [];
}

/** Options, checked, with what stands for those that were left out. */
function checkOptions(options: SupervisorOptions): Required<SupervisorOptions> {
  const who = 'Supervisor.connect()';
  checkKeys(who, options, ['deadlineMs', 'takeOver']);
  const { deadlineMs = 30_000, takeOver = false } = options;
  if (!Number.isInteger(deadlineMs) || deadlineMs < 1 || deadlineMs > MOST_DEADLINE_MS) {
    const range = `a whole number of milliseconds from 1 to ${MOST_DEADLINE_MS}`;
    throw outOfRange(`${who}: option 'deadlineMs' must be ${range}, not ${shown(deadlineMs)}`);
  }
  if (typeof takeOver !== 'boolean') {
    throw wrongType(`${who}: option 'takeOver' must be true or false, not ${shown(takeOver)}`);
  }
  return { deadlineMs, takeOver };
}

/** What a guest is made of, and what is kept of it. On an error nothing of it is left: there may be no descriptor to look at them with. */
function keptFrom(
  fds: readonly number[],
  keepThem: (descriptors: readonly HasFd[]) => Keep,
): { pidfd: PidFd; uffd: Uffd; states: Memfd; keep: Keep } {
  const [first = -1, second = -1, third = -1] = fds;
  try {
    const [pidfd, uffd, states] = [PidFd.fromFd(first), Uffd.fromFd(second), Memfd.fromFd(third)];
    return { pidfd, uffd, states, keep: keepThem([pidfd, uffd, states]) };
  } catch (error) {
    for (const fd of fds) closeFd(fd);
    throw error;
  }
}

/** A connection to the supervisor, which keeps the event loop alive only while it is asked something. */
export class Supervisor extends EventEmitter<SupervisorEvents> implements Disposable {
  readonly path: string;
  readonly #options: Required<SupervisorOptions>;
  readonly #keeps = new Set<Keep>();
  readonly #host: KeepHost = {
    replace: (keep, descriptors, guest) => this.#replace(keep, descriptors, guest),
    serving: (keep) => this.#tell('serving', keep),
    forget: (keep) => this.#forget(keep),
  };
  /** Where guests connect: for the supervisor after this one. */
  #listener: UnixListener | undefined;
  #welcome: ((socket: UnixSocket, held: HeldGuest | undefined) => void) | undefined;
  /** Who has come before anybody was there to welcome him. */
  readonly #early: [id: number, fd: number][] = [];
  /** Whoever listens keeps the process alive. */
  #alive: NodeJS.Timeout | undefined;
  #line: Line | undefined;
  #pid: number | undefined;
  #waiting = 0;
  /** 'leave' came then, and nobody listened yet. */
  #leaveAsked: number | undefined;
  #reviving: Promise<void> | undefined;
  #closed = false;

  private constructor(path: string, options: Required<SupervisorOptions>) {
    super();
    this.path = path;
    this.#options = options;
    (this as unknown as EventEmitter).on('newListener', (event) => {
      if (event === 'leave') setImmediate(() => this.#leaveNow());
    });
  }

  /**
   * Connects to the supervisor at `path`, a Unix socket, and starts one where there is none. It ends by itself when no daemon is connected and
   * no guest is left. Linux 5.4.
   * @throws {SupervisorError} it cannot be started, it or the file belongs to somebody else, another daemon is connected
   */
  static async connect(path: string, options: SupervisorOptions = {}): Promise<Supervisor> {
    const supervisor = new Supervisor(path, checkOptions(options));
    await supervisor.#connect(supervisor.#options.takeOver);
    return supervisor;
  }

  /** Guests that the supervisor held when this daemon connected: they wait for {@link orphans}. */
  get waiting(): number {
    return this.#waiting;
  }

  /** Its process id; undefined while it is being replaced. */
  get pid(): number | undefined {
    return this.#pid;
  }

  /** Gives the supervisor duplicates. From here on the guest outlives this daemon: until the next one comes, or the deadline has passed. */
  async hold(descriptors: GuestDescriptors, guest: unknown): Promise<HeldGuest> {
    this.#checkOpen();
    const keep = new Keep(listOf(descriptors), guest);
    this.#keeps.add(keep);
    try {
      await this.#put(keep);
    } catch (error) {
      this.#letGo(keep);
      throw error;
    }
    return new HeldGuest(this.#host, keep);
  }

  /** The guests of the daemon before, one after the other, the oldest first. Whoever takes one says `serving`, or kills it and says `drop`. */
  async *orphans(): AsyncGenerator<Orphan, void, undefined> {
    for (;;) {
      const line = this.#connected();
      const { kind, body, fds } = await line.ask('next', {});
      if (kind === 'none') return;
      const id = numberOf(body, 'id', 1, Number.MAX_SAFE_INTEGER);
      const orphanedMs = numberOf(body, 'orphanedMs', 0, Number.MAX_SAFE_INTEGER) ?? 0;
      if (id === undefined || fds.length !== GUEST_FDS) {
        for (const fd of fds) closeFd(fd);
        throw new SupervisorError('the supervisor handed over a guest that is not whole');
      }
      const { keep, ...parts } = keptFrom(fds, (descriptors) => new Keep(descriptors, body['guest'], line, id));
      this.#keeps.add(keep);
      yield { ...parts, guest: keep.guest, orphanedMs, held: new HeldGuest(this.#host, keep) };
    }
  }

  /**
   * Where guests connect. The supervisor has the socket, too, and accepts: whoever connects while no daemon is there waits for the next one, as long as
   * guests do. The listener of the daemon before, if it was at this path; else the one that is made. It is the supervisor's: watched by nobody else.
   * @internal
   */
  async listen(path: string, make: () => UnixListener): Promise<UnixListener> {
    const { kind, fds } = await this.#connected().ask('listen', { path });
    const [fd] = fds;
    if (kind === 'listening' && fd !== undefined) {
      this.#listener = UnixListener.fromFd(fd, path);
      return this.#listener;
    }
    const listener = make();
    try {
      await this.#connected().ask('listen', { path }, [listener.fd]);
    } catch (error) {
      listener.close();
      throw error;
    }
    this.#listener = listener;
    return listener;
  }

  /**
   * Who connects, from now on and since `listen`. The process is held already: it dies with this daemon until it has handed over its memory. Undefined: it
   * could not be held.
   * @internal
   */
  onConnection(welcome: (socket: UnixSocket, held: HeldGuest | undefined) => void): void {
    this.#welcome = welcome;
    this.#alive ??= setInterval(() => {}, MOST_DEADLINE_MS);
    for (const [id, fd] of this.#early.splice(0)) this.#arrived(id, fd);
  }

  /** Whoever comes from now on is left to the next daemon. @internal */
  leaveDoor(): void {
    this.#welcome = undefined;
  }

  /** Nobody comes any more; who is on the way and has handed over memory is killed. The file is gone. @internal */
  async unlisten(): Promise<void> {
    const listener = this.#listener;
    this.#listener = undefined;
    this.#welcome = () => {};
    await this.#line?.ask('unlisten', {}).catch(() => {});
    listener?.close();
  }

  /** Ends the connection. Guests that are still held wait for the next daemon, as if this one had died. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#alive);
    this.#line?.close();
    this.#listener?.release();
    for (const [, fd] of this.#early.splice(0)) closeFd(fd);
    for (const keep of [...this.#keeps]) this.#letGo(keep);
  }

  [Symbol.dispose](): void {
    this.close();
  }

  async #connect(takeOver: boolean): Promise<void> {
    const { deadlineMs } = this.#options;
    for (let tries = 1; ; tries++) {
      const socket = connectTo(this.path);
      if (socket === undefined) {
        if (tries > CONNECT_TRIES) throw new SupervisorError(`no supervisor listens at ${shown(this.path)}`);
        await startSupervisor(this.path, deadlineMs);
        continue;
      }
      const leave = (): void => {
        this.#leaveAsked = performance.now();
        this.#leaveNow();
      };
      const connection = (id: number, fd: number | undefined): void => {
        if (fd === undefined) this.#askAgain(line, id);
        else this.#arrived(id, fd);
      };
      const line = new Line(socket, { leave, connection }, (error) => this.#lost(line, error));
      try {
        const ms = (takeOver ? deadlineMs : 0) + HELLO_MS;
        const { body } = await line.ask('hello', { version: VERSION, deadlineMs, takeOver }, [], ms);
        this.#waiting = numberOf(body, 'guests', 0, Number.MAX_SAFE_INTEGER) ?? 0;
        this.#pid = numberOf(body, 'pid', 1, 2 ** 31);
        this.#line = line;
        return;
      } catch (error) {
        line.close();
        if (!(error instanceof LostLine) || tries > CONNECT_TRIES) throw error; // it was just ending: another one is started
      }
    }
  }

  /** It may be told together with the welcome, before anybody can listen; who asked has given up after a while. */
  #leaveNow(): void {
    const asked = this.#leaveAsked;
    if (asked === undefined || this.#closed) return;
    const isLate = performance.now() - asked > this.#options.deadlineMs;
    if (isLate || this.emit('leave')) this.#leaveAsked = undefined;
  }

  #checkOpen(): void {
    if (this.#closed) throw new SupervisorError('this Supervisor is closed');
  }

  #connected(): Line {
    this.#checkOpen();
    if (this.#line !== undefined) return this.#line;
    throw new SupervisorError('there is no supervisor at the moment');
  }

  #arrived(id: number, fd: number): void {
    if (this.#closed) closeFd(fd);
    else if (this.#welcome === undefined) this.#early.push([id, fd]);
    else this.#take(id, fd).catch((error) => this.emit('lost', asError(error)));
  }

  /** Whoever waits behind a table of descriptors that is full waits for it to have room. */
  #askAgain(line: Line, id: number): void {
    setTimeout(() => {
      if (line === this.#line && !this.#closed) line.ask('again', { id }).catch(() => {}); // it is given to the next one
    }, ROOM_MS);
  }

  /** Before a byte of it is read: what is read is in nobody else's hands. */
  async #take(id: number, fd: number): Promise<void> {
    const socket = UnixSocket.fromFd(fd);
    const line = this.#line;
    let held: HeldGuest | undefined;
    try {
      const answer = await line?.ask('take', { id });
      const number = answer && numberOf(answer.body, 'id', 1, Number.MAX_SAFE_INTEGER);
      if (line !== undefined && number !== undefined) held = this.#heldAs(socket, line, number);
    } catch {
      // the supervisor has died, or the process has ended: as if this daemon had accepted it
    }
    const welcome = this.#welcome;
    if (this.#closed || this.#listener === undefined || welcome === undefined) socket.close();
    else welcome(socket, held);
  }

  #heldAs(socket: UnixSocket, line: Line, id: number): HeldGuest {
    try {
      using pidfd = socket.peerPidFd();
      const keep = new Keep([pidfd], { name: 'not handed over yet' }, line, id);
      this.#keeps.add(keep);
      return new HeldGuest(this.#host, keep);
    } catch (error) {
      line.ask('drop', { id }).catch(() => {}); // held by nobody who knows of it, it would die with this daemon, whatever becomes of it
      throw error;
    }
  }

  /* --- for HeldGuest ----------------------------------------------------------------------------------------------- */

  async #replace(keep: Keep, descriptors: GuestDescriptors, guest: unknown): Promise<void> {
    if (!this.#keeps.has(keep)) throw new SupervisorError('the supervisor does not hold this guest any more');
    await keep.replace(listOf(descriptors), guest);
    await this.#put(keep);
  }

  async #tell(kind: 'serving' | 'drop', { id, at }: Keep): Promise<void> {
    if (id === undefined || at === undefined || at !== this.#line) return; // the next supervisor is told by what it is given
    try {
      await at.ask(kind, { id });
    } catch (error) {
      if (!(error instanceof LostLine)) throw error;
    }
  }

  async #forget(keep: Keep): Promise<void> {
    if (!this.#letGo(keep)) return;
    await keep.settled();
    await this.#tell('drop', keep);
  }

  #letGo(keep: Keep): boolean {
    if (!this.#keeps.delete(keep)) return false;
    keep.close();
    return true;
  }

  /** Resolves when a supervisor has it: this one, or the one that comes after it. */
  async #put(keep: Keep): Promise<void> {
    try {
      if (this.#line !== undefined) return await keep.give(this.#line);
    } catch (error) {
      if (!(error instanceof LostLine)) throw error;
    }
    await Promise.race([this.#reviving, sleep(REVIVAL_MS, undefined, { ref: false })]); // which gives it what is kept
    await keep.settled();
    if (keep.at !== this.#connected() || keep.id === undefined) {
      throw new SupervisorError('the supervisor that came after one that died does not hold this guest');
    }
  }

  /* --- a supervisor that died ---------------------------------------------------------------------------------------- */

  #lost(line: Line, error: LostLine): void {
    if (line !== this.#line || this.#closed) return;
    this.#line = undefined;
    this.#pid = undefined;
    this.#leaveAsked = undefined; // whoever asked asks the next one
    this.#reviving = this.#revive();
    this.emit('lost', error);
  }

  /** Until it has worked, or this object is closed. Never rejects. */
  async #revive(): Promise<void> {
    while (!this.#closed && this.#line === undefined) {
      try {
        await this.#connect(false);
      } catch (error) {
        this.emit('lost', asError(error));
        await sleep(AGAIN_MS, undefined, { ref: false });
      }
    }
    const line = this.#line;
    if (this.#closed) {
      line?.close();
      return;
    }
    const { path, fd } = this.#listener ?? {};
    if (fd !== undefined) await line?.ask('listen', { path }, [fd]).catch((error) => this.#notHeld(error));
    // One that came meanwhile has been given already; one that ended meanwhile is nobody's concern.
    for (const keep of [...this.#keeps]) {
      if (line === undefined || line !== this.#line) return; // that one is gone, too
      if (keep.at !== line && this.#keeps.has(keep)) await keep.give(line).catch((error) => this.#notHeld(error));
    }
    if (line === this.#line && !this.#closed) this.emit('back');
  }

  #notHeld(error: unknown): void {
    if (!(error instanceof LostLine)) this.emit('lost', new SupervisorError(reasonOf(error), { cause: error }));
  }
}
