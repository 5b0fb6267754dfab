/**
 * What a daemon has given its supervisor of one guest, and keeps duplicates of: for the supervisor after this one. The daemon's thread.
 */

import { SupervisorError } from '../../errors/supervisor-error.js';
import { duplicateFds } from '../../kernel/duplicate.js';
import { closeFd, type HasFd } from '../../kernel/index.js';
import type { Line } from './line.js';
import { numberOf } from './protocol.js';

/** What a guest is made of. Everything stays the caller's. */
export interface GuestDescriptors {
  readonly pidfd: HasFd;
  /** Both or none: without them the guest cannot be gone on with, and is killed as soon as this daemon dies. */
  readonly uffd?: HasFd | undefined;
  /** One byte a page, or whatever the next daemon must know. */
  readonly states?: HasFd | undefined;
}

export class Keep {
  /** The supervisor's number of it. */
  id: number | undefined;
  guest: unknown;
  /** Whom it was given to, or is being given to. */
  at: Line | undefined;
  #fds: readonly number[];
  /** As long as this has not settled the descriptors may be on their way, and stay open. */
  #sending: Promise<void> | undefined;
  #closed = false;

  /** Duplicates the descriptors. */
  constructor(descriptors: readonly HasFd[], guest: unknown, at?: Line, id?: number) {
    this.#fds = duplicateFds('Supervisor', descriptors);
    this.guest = guest;
    this.at = at;
    this.id = id;
  }

  /** Something else is to be held of it. */
  async replace(descriptors: readonly HasFd[], guest: unknown): Promise<void> {
    while (this.#sending !== undefined) await this.settled(); // one may be followed by another
    if (this.#closed) throw notHeld();
    const before = this.#fds;
    this.#fds = duplicateFds('Supervisor', descriptors);
    this.guest = guest;
    for (const fd of before) closeFd(fd);
  }

  /** Resolves when this supervisor has it. */
  give(line: Line): Promise<void> {
    if (this.#closed) return Promise.reject(notHeld());
    if (this.at !== line) this.id = undefined; // another one's number
    this.at = line;
    const { id, guest } = this;
    const sending = line.ask('hold', { guest, ...(id === undefined ? {} : { id }) }, this.#fds).then(({ body }) => {
      this.id = numberOf(body, 'id', 1, Number.MAX_SAFE_INTEGER);
    });
    const over = (): void => {
      if (this.#sending === sending) this.#sending = undefined;
    };
    this.#sending = sending;
    sending.then(over, over);
    return sending;
  }

  /** Resolves when nothing of it is on its way, whatever has become of that. */
  async settled(): Promise<void> {
    await this.#sending?.catch(() => {});
  }

  close(): void {
    this.#closed = true;
    const close = (): void => {
      for (const fd of this.#fds) closeFd(fd);
    };
    if (this.#sending === undefined) close();
    else this.#sending.then(close, close);
  }
}

/** In the order of the protocol. */
export function listOf({ pidfd, uffd, states }: GuestDescriptors): HasFd[] {
  return uffd !== undefined && states !== undefined ? [pidfd, uffd, states] : [pidfd];
}

function notHeld(): SupervisorError {
  return new SupervisorError('the supervisor does not hold this guest any more');
}

/** @internal */
export interface KeepHost {
  replace(keep: Keep, descriptors: GuestDescriptors, guest: unknown): Promise<void>;
  serving(keep: Keep): Promise<void>;
  forget(keep: Keep): Promise<void>;
}

/** A guest that the supervisor holds: who has it decides when it is let go. */
export class HeldGuest {
  readonly #host: KeepHost;
  readonly #keep: Keep;

  /** @internal */
  constructor(host: KeepHost, keep: Keep) {
    this.#host = host;
    this.#keep = keep;
  }

  /** What was held of the guest is replaced: it has handed over its memory by now, or there is something else to tell the next daemon. */
  async update(descriptors: GuestDescriptors, guest: unknown): Promise<void> {
    await this.#host.replace(this.#keep, descriptors, guest);
  }

  /** This daemon answers its faults from here on; the deadline does not run any more. */
  async serving(): Promise<void> {
    await this.#host.serving(this.#keep);
  }

  /** The guest is gone, or on its way: nobody shall kill it, nobody take it over. */
  async drop(): Promise<void> {
    await this.#host.forget(this.#keep);
  }
}
