/**
 * A guest in the supervisor: duplicates of its descriptors, which keep its memory from reading zero while nobody serves it, and a deadline
 * for as long as nobody does.
 *
 *     served ──▶ orphaned [orphan] ──▶ offered [offer] ──▶ served [serving]
 *                   │  ▲                  │ the daemon that was to take it is gone, too: [orphan], the deadline stays
 *                   │  └──────────────────┘
 *                   └──▶ killed [kill]: by the deadline ──▶ ended: the process is gone [ended], and its descriptors with it
 *
 * Main thread of the supervisor.
 */

import { SystemError } from '../../errors/system-error.js';
import { closeFd, PidFd } from '../../kernel/index.js';

const ESRCH = 3;

export interface HeldHost {
  /** Milliseconds; 0: no daemon is waited for. */
  readonly deadlineMs: number;
  say(sentence: string): void;
  /** The process is gone; it is forgotten. */
  ended(held: Held): void;
}

export class Held {
  readonly id: number;
  readonly pid: number;
  readonly name: string;
  /** As the daemon gave it; nothing here reads it. */
  readonly guest: unknown;
  readonly #host: HeldHost;
  readonly #pidfd: PidFd;
  readonly #others: readonly number[];
  #state: 'served' | 'orphaned' | 'offered' | 'killed' = 'served';
  #orphanedAt = 0;
  #timer: NodeJS.Timeout | undefined;
  #dropped = false;

  /** Takes the descriptors over, pidfd first. On an error they stay the caller's. */
  constructor(id: number, guest: unknown, fds: readonly number[], host: HeldHost) {
    const [first = -1, ...others] = fds;
    this.#pidfd = PidFd.fromFd(first);
    this.id = id;
    this.pid = this.#pidfd.pid;
    this.guest = guest;
    this.name = nameOf(guest, this.pid);
    this.#others = others;
    this.#host = host;
    try {
      this.#pidfd.onExit(() => host.ended(this));
    } catch (error) {
      this.#pidfd.intoFd();
      throw error;
    }
  }

  get orphaned(): boolean {
    return this.#state === 'orphaned';
  }

  /** A daemon can go on with it: it has handed over memory. */
  get whole(): boolean {
    return this.#others.length > 0;
  }

  /** For a message; they stay this object's. */
  get fds(): readonly number[] {
    return [this.#pidfd.fd, ...this.#others];
  }

  /** For how long nobody has served it: milliseconds. */
  get orphanedMs(): number {
    return this.#orphanedAt === 0 ? 0 : Math.round(performance.now() - this.#orphanedAt);
  }

  /** Its daemon is gone. One that only looked at it does not lengthen its life. */
  orphan(): void {
    if (this.#state === 'killed') return;
    this.#state = 'orphaned';
    if (!this.whole) {
      this.kill('its daemon died before the guest had handed over its memory');
      return;
    }
    if (this.#orphanedAt === 0) this.#orphanedAt = performance.now();
    this.#expectDaemon();
  }

  /** A daemon has been given its descriptors. */
  offer(): void {
    if (this.#state === 'orphaned') this.#state = 'offered';
  }

  /** That daemon answers its faults now. */
  serving(): void {
    if (this.#state === 'killed') return;
    this.#state = 'served';
    this.#orphanedAt = 0;
    clearTimeout(this.#timer);
  }

  /** The deadline has changed. */
  #expectDaemon(): void {
    clearTimeout(this.#timer);
    const { deadlineMs } = this.#host;
    const left = Math.max(0, deadlineMs - (performance.now() - this.#orphanedAt));
    const why =
      deadlineMs === 0
        ? 'its daemon is gone, and the supervisor was told to end'
        : `no daemon has taken it over within ${deadlineMs} ms`;
    this.#timer = setTimeout(() => this.kill(why), left);
  }

  /** The supervisor waits longer, or not any more. */
  deadlineChanged(): void {
    if (this.#state === 'orphaned' || this.#state === 'offered') this.#expectDaemon();
  }

  kill(why: string): void {
    if (this.#state === 'killed') return;
    this.#state = 'killed';
    clearTimeout(this.#timer);
    this.#host.say(`process ${this.pid} (${this.name}) is killed: ${why}`);
    try {
      this.#pidfd.signal('SIGKILL');
    } catch (error) {
      if (error instanceof SystemError && error.errno === ESRCH) return; // its end is told by the pidfd
      this.#host.say(`process ${this.pid} (${this.name}) cannot be killed: ${String(error)}`);
    }
  }

  /** Closes everything. */
  drop(): void {
    if (this.#dropped) return;
    this.#dropped = true;
    clearTimeout(this.#timer);
    this.#pidfd.close();
    for (const fd of this.#others) closeFd(fd);
  }
}

function nameOf(guest: unknown, pid: number): string {
  const name: unknown = typeof guest === 'object' && guest !== null && 'name' in guest ? guest.name : undefined;
  return typeof name === 'string' && name !== '' ? name.slice(0, 100) : `guest ${pid}`;
}
