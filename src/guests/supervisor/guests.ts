/**
 * The guests of an engine, kept by a supervisor: each is held from the moment on that it is known, and the guests of the daemon before are taken
 * over. The daemon's thread.
 */

import { GuestError } from '../../errors/guest-error.js';
import { asError, reasonOf } from '../../errors/reason.js';
import { duplicateFds } from '../../kernel/duplicate.js';
import { closeFd, type HasFd, type PidFd, type UnixSocket } from '../../kernel/index.js';
import type { Guest, GuestEngine, GuestParts, Snapshot } from '../engine/index.js';
import type { Orphan, Supervisor } from './client.js';
import { type Described, describeGuest, readDescription } from './description.js';
import type { GuestDescriptors, HeldGuest } from './keep.js';

/** Undefined: it could not be held, and somebody has been told so. */
type Holding = Promise<HeldGuest | undefined>;

/** What the daemon that goes on decides, whatever the one before had decided. */
export type TakenOver = Pick<GuestParts, 'onFailure' | 'faultTimeoutMs' | 'record'>;

export interface SupervisedHost {
  /** Guests that cannot be held, and are served all the same; those that cannot be taken over, and are killed; a supervisor that has died. */
  warn(error: Error): void;
  /** Another daemon is to go on: `leave` is to be called. */
  leave(): void;
}

export class SupervisedGuests {
  readonly #supervisor: Supervisor;
  readonly #engine: GuestEngine;
  readonly #snapshot: Snapshot;
  readonly #host: SupervisedHost;
  /** By whatever it came by. */
  readonly #newcomers = new Map<object, Holding>();
  readonly #held = new Map<Guest, Holding>();
  #leaving = false;

  constructor(supervisor: Supervisor, engine: GuestEngine, snapshot: Snapshot, host: SupervisedHost) {
    this.#supervisor = supervisor;
    this.#engine = engine;
    this.#snapshot = snapshot;
    this.#host = host;
    supervisor.on('leave', () => host.leave());
    supervisor.on('lost', (error) => host.warn(error));
  }

  /** Calls back for each who connects. */
  onConnection(welcome: (socket: UnixSocket, held: HeldGuest | undefined) => void): void {
    this.#supervisor.onConnection(welcome);
  }

  /** Nobody comes any more. */
  async unlisten(): Promise<void> {
    await this.#supervisor.unlisten();
  }

  /** Somebody has connected. It shall not outlive this daemon before it has handed over its memory: it would freeze. */
  newcomer(by: object, pidfd: PidFd, held: HeldGuest | undefined): void {
    this.#newcomers.set(by, held ? Promise.resolve(held) : this.#hold({ pidfd }, { name: 'not handed over yet' }));
  }

  /** The connection has ended; perhaps nothing was handed over. */
  left(by: object): void {
    const newcomer = this.#newcomers.get(by);
    this.#newcomers.delete(by);
    newcomer?.then((held) => held?.drop()).catch((error) => this.#warn(error));
  }

  /** Serves it, and has it held. Throws what the engine throws: nothing of it is held then. */
  add(parts: GuestParts, by: object): Guest {
    const copies = copiesOf(parts);
    let guest: Guest;
    try {
      guest = this.#engine.add({ ...parts, supervised: true });
    } catch (error) {
      closeCopies(copies);
      throw error;
    }
    const descriptors = { ...copies, states: guest.states };
    const description = describeGuest(this.#describe(parts));
    const newcomer = this.#newcomers.get(by);
    this.#newcomers.delete(by);
    const holding = Promise.resolve(newcomer)
      .then((held) => this.#complete(held, descriptors, description))
      .finally(() => closeCopies(copies));
    this.#keep(guest, holding);
    return guest;
  }

  /** Resolves when it outlives this daemon, or cannot be held, which has been told. */
  async held(guest: Guest): Promise<void> {
    await this.#held.get(guest);
  }

  /** Takes over the guests of the daemon before, one after the other. Those that cannot be served here are killed. Never rejects. */
  async *takeOver(options: TakenOver): AsyncGenerator<Guest, void, undefined> {
    try {
      for await (const orphan of this.#supervisor.orphans()) {
        const guest = await this.#adopt(orphan, options);
        if (guest !== undefined) yield guest;
      }
    } catch (error) {
      this.#warn(error); // the supervisor has died, and those that it had left are in nobody's hands
    }
  }

  /** It has ended, or was ended: nothing of it is kept. */
  async drop(guest: Guest): Promise<void> {
    const holding = this.#held.get(guest);
    this.#held.delete(guest);
    const held = await holding;
    await held?.drop();
  }

  /** Lets go of all guests for the next daemon; nobody answers their faults until then. */
  async leave(): Promise<void> {
    this.#leaving = true;
    this.#supervisor.leaveDoor();
    for (const holding of this.#held.values()) await holding; // whoever hands over its memory meanwhile is among them
    await Promise.all([...this.#held.keys()].map((guest) => guest.close({ kill: false })));
    this.#supervisor.close();
  }

  /** After the guests have been ended. */
  async close(): Promise<void> {
    for (const guest of [...this.#held.keys()]) await this.drop(guest);
    this.#supervisor.close();
  }

  #warn(error: unknown): void {
    this.#host.warn(asError(error));
  }

  #describe(parts: GuestParts): Described {
    const { name, regions, pageSize, onFailure = 'kill', faultTimeoutMs, record } = parts;
    return { name, regions, pageSize, onFailure, faultTimeoutMs, record, snapshot: this.#snapshot.identity };
  }

  async #hold(descriptors: GuestDescriptors, description: unknown): Holding {
    try {
      return await this.#supervisor.hold(descriptors, description);
    } catch (error) {
      this.#warn(error);
      return undefined;
    }
  }

  async #complete(held: HeldGuest | undefined, descriptors: GuestDescriptors, description: unknown): Holding {
    if (held === undefined) return await this.#hold(descriptors, description);
    try {
      await held.update(descriptors, description);
    } catch (error) {
      this.#warn(error);
    }
    return held;
  }

  #keep(guest: Guest, holding: Holding): void {
    this.#held.set(guest, holding);
    guest.once('gone', () => {
      if (!this.#leaving) this.drop(guest).catch((error) => this.#warn(error));
    });
  }

  async #adopt(orphan: Orphan, options: TakenOver): Promise<Guest | undefined> {
    const { uffd, pidfd, states, held } = orphan;
    try {
      const { name, regions, pageSize, snapshot } = readDescription(orphan.guest);
      if (snapshot !== this.#snapshot.identity) {
        throw new GuestError(
          'ERR_PAGEFAULT_GUEST_HANDSHAKE',
          'it was restored from another snapshot than this daemon serves',
        );
      }
      const parts = {
        uffd,
        pidfd,
        states,
        regions,
        pageSize,
        name,
        snapshot: this.#snapshot,
        adopted: true,
        supervised: true,
      };
      const guest = this.#engine.add({ ...parts, ...options });
      this.#keep(guest, Promise.resolve(held));
      await held.serving().catch((error) => this.#warn(error));
      return guest;
    } catch (error) {
      await this.#kill(orphan, error);
      return undefined;
    }
  }

  /** It waits for pages that nobody here has. */
  async #kill({ uffd, pidfd, states, held }: Orphan, cause: unknown): Promise<void> {
    const { pid } = pidfd;
    const why = `process ${pid}, whose daemon is gone, is killed, since it cannot be served: ${reasonOf(cause)}`;
    this.#warn(new GuestError('ERR_PAGEFAULT_GUEST_HANDSHAKE', why, { pid, cause }));
    let ends = true;
    try {
      pidfd.signal('SIGKILL');
    } catch (error) {
      this.#warn(error);
      ends = !pidfd.isAlive(); // else the supervisor tries at the deadline
    }
    for (const part of [uffd, pidfd, states]) part.close();
    if (ends) await held.drop();
  }
}

function copiesOf(parts: GuestParts): { pidfd: HasFd; uffd: HasFd } {
  const [pidfd, uffd] = duplicateFds('Supervisor', [parts.pidfd, parts.uffd]) as [number, number];
  return { pidfd: { fd: pidfd }, uffd: { fd: uffd } };
}

function closeCopies({ pidfd, uffd }: { pidfd: HasFd; uffd: HasFd }): void {
  closeFd(pidfd.fd);
  closeFd(uffd.fd);
}
