/**
 * The socket at which guests connect, kept over the lives of daemons. It is the supervisor that accepts: whoever has connected is known here, and can be
 * ended, before any daemon has a part in it. A daemon is given the connections, and takes each before it reads from it; what none has taken waits for the
 * next one. At the end those that have handed over memory, which nobody will ever serve, are killed: they would freeze. Main thread of the supervisor.
 *
 *     in the kernel's queue ──▶ waiting [accept, deliver] ──▶ taken [take]: its daemon's, and a guest of the keeper's
 *                                  └──▶ looked at, and closed [close]
 */

import { lstatSync } from 'node:fs';
import { reasonOf } from '../../errors/reason.js';
import { descriptorTarget } from '../../kernel/descriptor.js';
import { closeFd, type PidFd, receiveFds, UnixListener, type UnixSocket, type Watch } from '../../kernel/index.js';

/** So many may wait to be taken; the others are in the kernel's queue. */
const MOST_WAITING = 16;
const AGAIN_MS = 100;

interface Waiting {
  readonly socket: UnixSocket;
  /** Undefined: it has ended, or is not visible from here; the daemon refuses it. */
  readonly pidfd: PidFd | undefined;
}

export class Door {
  readonly path: string;
  readonly #listener: UnixListener;
  readonly #inode: bigint | undefined;
  readonly #say: (sentence: string) => void;
  readonly #waiting = new Map<number, Waiting>();
  #deliver: ((id: number, fd: number) => void) | undefined;
  #watch: Watch | undefined;
  #timer: NodeJS.Timeout | undefined;
  #serial = 0;

  /** Takes the descriptor over; on an error it stays the caller's. */
  constructor(fd: number, path: string, say: (sentence: string) => void) {
    this.#listener = UnixListener.fromFd(fd, path);
    this.path = path;
    this.#inode = inodeOf(path);
    this.#say = say;
  }

  /** Stays this object's. */
  get fd(): number {
    return this.#listener.fd;
  }

  /** Somebody has removed the file, or put another one there: nobody can come by it any more. */
  get isWalledUp(): boolean {
    return this.#inode === undefined || inodeOf(this.path) !== this.#inode;
  }

  /** There is a daemon: it is given whoever has come and whoever comes. */
  open(deliver: (id: number, fd: number) => void): void {
    this.#deliver = deliver;
    for (const [id, { socket }] of this.#waiting) deliver(id, socket.fd);
    this.#listen();
  }

  /** The daemon had no room for it. */
  again(id: number): void {
    const waiting = this.#waiting.get(id);
    if (waiting !== undefined) this.#deliver?.(id, waiting.socket.fd);
  }

  /** The daemon is gone: what it had not taken waits, as does whoever comes. */
  shut(): void {
    this.#deliver = undefined;
    this.#rest();
  }

  /** Nobody waits. */
  get isQuiet(): boolean {
    this.#accept();
    return this.#waiting.size === 0;
  }

  /** The daemon is about to read from it: its descriptor is the daemon's now, and the process (if it has not ended) the caller's. */
  take(id: number): { pidfd: PidFd | undefined } | undefined {
    const taken = this.#waiting.get(id);
    if (taken === undefined) return undefined;
    this.#waiting.delete(id);
    taken.socket.close();
    if (this.#deliver !== undefined && this.#watch === undefined) this.#listen();
    return { pidfd: taken.pidfd };
  }

  /** For good. `why`: whoever has handed over memory is killed, since it would freeze. */
  close(why: string): void {
    this.#deliver = undefined;
    this.#rest();
    this.#listener.removeFile(); // from here on nobody comes, but those who are there
    do {
      this.#accept();
      for (const [id, one] of this.#waiting) {
        this.#waiting.delete(id);
        this.#turnAway(one, why);
      }
    } while (this.#accept());
    this.#listener.close();
  }

  #rest(): void {
    this.#watch?.close();
    this.#watch = undefined;
    clearTimeout(this.#timer);
  }

  #listen(): void {
    this.#rest();
    if (this.#waiting.size < MOST_WAITING) this.#watch = this.#listener.onReadable(() => this.#accept());
  }

  /** True: somebody has come. */
  #accept(): boolean {
    const before = this.#serial;
    try {
      while (this.#waiting.size < MOST_WAITING) {
        const socket = this.#listener.accept();
        if (socket === undefined) break;
        this.#admit(socket);
      }
    } catch (error) {
      this.#say(reasonOf(error)); // no descriptor is to be had: they wait
      this.#rest();
      if (this.#deliver !== undefined) this.#timer = setTimeout(() => this.#listen(), AGAIN_MS);
      return false;
    }
    if (this.#waiting.size >= MOST_WAITING) this.#rest();
    return this.#serial > before;
  }

  #admit(socket: UnixSocket): void {
    let pidfd: PidFd | undefined;
    try {
      pidfd = socket.peer().pid === 0 ? undefined : socket.peerPidFd();
    } catch {
      // it has ended
    }
    this.#serial += 1;
    this.#waiting.set(this.#serial, { socket, pidfd });
    this.#deliver?.(this.#serial, socket.fd);
  }

  #turnAway({ socket, pidfd }: Waiting, why: string): void {
    const fds: number[] = [];
    try {
      for (let got = receiveFds(socket); got !== undefined && got.bytes.byteLength > 0; got = receiveFds(socket)) {
        fds.push(...got.fds);
      }
    } catch {
      // it has ended, or sends what nobody could take
    }
    if (fds.some((fd) => descriptorTarget(fd) === 'anon_inode:[userfaultfd]')) this.#kill(pidfd, why);
    for (const fd of fds) closeFd(fd);
    pidfd?.close();
    socket.close();
  }

  #kill(pidfd: PidFd | undefined, why: string): void {
    if (pidfd === undefined) return;
    this.#say(`process ${pidfd.pid}, which has handed over its memory to nobody, is killed: ${why}`);
    try {
      pidfd.signal('SIGKILL');
    } catch {
      // it has ended
    }
  }
}

function inodeOf(path: string): bigint | undefined {
  const found = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return found?.isSocket() === true ? found.ino : undefined;
}
