/** A Unix stream socket that carries descriptors: bytes and descriptors are two queues. The thread that made it. */

import { constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { ByteQueue } from './byte-queue.js';
import { checkFd, closedError, NO_DESCRIPTOR, systemError } from './descriptor.js';
import { checkStream, cutError, MAX_FDS, receiveFailure, sendMessage } from './fd-passing.js';
import { PidFd } from './pidfd.js';
import { Watch, type WatchOptions } from './watch.js';

const CHUNK = 64 * 1024;
const MAX_QUEUED_BYTES = 2 ** 30;
const PATH_MAX = 107;
const { EACCES, EAGAIN, ECONNREFUSED, ENOENT, ENOPROTOOPT, ENOTDIR, EPROTOTYPE } = constants.errno;

export interface UnixSocketOptions {
  /**
   * How much `fill` takes from the kernel before somebody takes it from the queues: the other end may be hostile. With the last
   * message the queue of descriptors may exceed its limit by 252.
   * @default { byteLength: 1048576, fds: 253 }
   */
  maxQueued?: { byteLength?: number; fds?: number };
}

/** Who is at the other end, as it was when the connection was made (SO_PEERCRED). */
export interface Peer {
  /** 0 where the process is not visible from here. */
  pid: number;
  uid: number;
  gid: number;
}

function checkLimit(name: string, value: unknown, most: number): number {
  if (typeof value === 'number' && Number.isInteger(value) && value >= 1 && value <= most) return value;
  throw outOfRange(`UnixSocket: option 'maxQueued.${name}' must be an integer from 1 to ${most}, not ${shown(value)}`);
}

function limitsOf(options: UnixSocketOptions): { byteLength: number; fds: number } {
  checkKeys('UnixSocket', options, ['maxQueued']);
  const { maxQueued = {} } = options;
  checkKeys("UnixSocket, option 'maxQueued'", maxQueued, ['byteLength', 'fds']);
  const { byteLength = 2 ** 20, fds = MAX_FDS } = maxQueued;
  return {
    byteLength: checkLimit('byteLength', byteLength, MAX_QUEUED_BYTES),
    fds: checkLimit('fds', fds, MAX_QUEUED_BYTES),
  };
}

/** Throws unless `path` is one that a Unix socket can have. */
export function checkPath(who: string, path: unknown): asserts path is string {
  if (typeof path !== 'string') throw wrongType(`${who}: the path must be a string, not ${shown(path)}`);
  const byteLength = Buffer.byteLength(path);
  if (byteLength === 0 || path.includes('\0')) {
    throw outOfRange(`${who}: the path of a Unix socket must not be empty and must not hold a zero byte`);
  }
  if (byteLength > PATH_MAX) {
    throw outOfRange(
      `${who}: the path of a Unix socket has at most ${PATH_MAX} bytes, and this one has ${byteLength}: ${shown(path)}; use a shorter one, or a relative one`,
    );
  }
}

function connectFailure(path: string, errno: number): Error {
  const sentences: Record<number, string> = {
    ...NO_DESCRIPTOR,
    [ENOENT]: 'there is no such file',
    [ENOTDIR]: 'a part of the path is no directory',
    [ECONNREFUSED]: 'nobody listens there: the file is no socket, or a process left it behind',
    [EAGAIN]: 'the queue of the listener is full: try again',
    [EACCES]: 'writing to the socket, or searching a directory of its path, is not permitted',
    [EPROTOTYPE]: 'it is a socket of another type, not a stream',
  };
  const why = sentences[errno] ?? 'it failed';
  return systemError(`UnixSocket.connect: cannot connect to ${shown(path)}: ${why}`, errno, 'connect');
}

/** Takes the descriptor over, also where there is none left to look at it with. */
function pidfdOf(fd: number): PidFd {
  try {
    return PidFd.fromFd(fd);
  } catch (error) {
    native().descriptorClose(fd);
    throw error;
  }
}

/**
 * A connected, non-blocking Unix stream socket. `fill` moves what has come into two queues, one of bytes (`read`) and one of descriptors
 * (`takeFd`), because the kernel glues messages together and only the order within each queue is the sender's. An object that is dropped
 * without `close` leaks its descriptors: neither the garbage collector nor the end of a Worker closes anything.
 */
export class UnixSocket implements Disposable {
  readonly #limits: { byteLength: number; fds: number };
  readonly #bytes = new ByteQueue();
  readonly #fds: number[] = [];
  readonly #received = new Int32Array(MAX_FDS + 1);
  #fd: number;
  #ended = false;
  #watch: Watch | undefined;

  private constructor(fd: number, limits: { byteLength: number; fds: number }) {
    this.#fd = fd;
    this.#limits = limits;
  }

  /** Two sockets that are connected with each other. */
  static pair(options: UnixSocketOptions = {}): [UnixSocket, UnixSocket] {
    const limits = limitsOf(options);
    const out = new Int32Array(2);
    const result = native().unixPair(out);
    if (result < 0) {
      const why = NO_DESCRIPTOR[-result] ?? 'no pair of sockets could be made';
      throw systemError(`UnixSocket.pair: ${why}`, -result, 'socketpair');
    }
    const [first = -1, second = -1] = out;
    return [new UnixSocket(first, limits), new UnixSocket(second, limits)];
  }

  /**
   * Connects to a path, at once: nothing waits.
   * @throws {SystemError} nothing is there (ENOENT), nobody listens (ECONNREFUSED), the listener's queue is full (EAGAIN)
   * @throws {RangeError} the path has more than 107 bytes
   */
  static connect(path: string, options: UnixSocketOptions = {}): UnixSocket {
    checkPath('UnixSocket.connect', path);
    const limits = limitsOf(options);
    const fd = native().unixConnect(path);
    if (fd < 0) throw connectFailure(path, -fd);
    return new UnixSocket(fd, limits);
  }

  /**
   * Adopts a descriptor, such as one that was inherited or received. On an error it stays the caller's.
   * @throws {DescriptorError} it is not a Unix stream socket, or it listens
   */
  static fromFd(fd: number, options: UnixSocketOptions = {}): UnixSocket {
    checkFd('UnixSocket.fromFd', fd);
    const limits = limitsOf(options);
    checkStream('UnixSocket.fromFd', fd);
    return new UnixSocket(fd, limits);
  }

  /** The descriptor, which stays this object's. */
  get fd(): number {
    if (this.#fd < 0) throw closedError('UnixSocket');
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /** Bytes that `read` can take now. */
  get available(): number {
    return this.#bytes.byteLength;
  }

  /** Descriptors that `takeFd` can take now. */
  get fdCount(): number {
    return this.#fds.length;
  }

  /** The other end has closed, and all that it sent has been moved into the queues. */
  get ended(): boolean {
    return this.#ended;
  }

  /**
   * Sends bytes, and descriptors with the first of them. The descriptors stay yours.
   * @returns the bytes sent, perhaps fewer than given: 0 when there is no room, and then no descriptor was sent either
   * @throws {SystemError} the other end has closed (EPIPE)
   */
  send(bytes: Uint8Array, fds: readonly number[] = []): number {
    return sendMessage('UnixSocket.send', this.fd, bytes, fds);
  }

  /**
   * Moves what has come into the queues, as far as `maxQueued` allows; then it stops reading until something is taken.
   * @returns 'data': something new is in the queues, or they are full; 'empty': nothing has come; 'end': the other end has closed and
   * nothing more will come
   * @throws {DescriptorError} ERR_PAGEFAULT_TRUNCATED: this process has no room for the descriptors that came, and they were closed. The bytes
   * that they came with are in the queue
   */
  fill(): 'data' | 'empty' | 'end' {
    const { fd } = this;
    let moved = false;
    while (!this.#ended) {
      if (this.#isFull()) return 'data';
      const room = Math.min(CHUNK, this.#limits.byteLength - this.#bytes.byteLength);
      const got = native().unixReceive(fd, this.#bytes.reserve(room), this.#received, MAX_FDS);
      if (got === -EAGAIN) return moved ? 'data' : 'empty';
      if (got < 0) throw receiveFailure('UnixSocket.fill', fd, -got);
      const [count = 0] = this.#received;
      this.#bytes.commit(got);
      if (count < 0) throw cutError('UnixSocket.fill', count);
      this.#fds.push(...this.#received.subarray(1, 1 + count));
      this.#ended = got === 0;
      moved ||= got > 0;
    }
    return moved ? 'data' : 'end';
  }

  #isFull(): boolean {
    return this.#bytes.byteLength >= this.#limits.byteLength || this.#fds.length >= this.#limits.fds;
  }

  /** Takes exactly that many bytes out of the queue; undefined while there are fewer. */
  read(byteLength: number): Uint8Array | undefined {
    if (!Number.isInteger(byteLength) || byteLength < 0) {
      throw outOfRange(`UnixSocket.read: the length must be an integer of at least 0, not ${shown(byteLength)}`);
    }
    return this.#bytes.take(byteLength);
  }

  /** Takes the oldest descriptor out of the queue: it is yours to close. undefined: there is none. */
  takeFd(): number | undefined {
    return this.#fds.shift();
  }

  /** Who is at the other end. */
  peer(): Peer {
    const out = new Float64Array(3);
    const result = native().unixPeer(this.fd, out);
    if (result < 0) throw systemError('UnixSocket.peer: who is there cannot be told', -result, 'getsockopt');
    const [pid = 0, uid = 0, gid = 0] = out;
    return { pid, uid, gid };
  }

  /**
   * The process at the other end, as it was when the connection was made. From Linux 6.5 on it is that one for certain; before, it is the one
   * that has its number now. Yours to close.
   * @throws {SystemError} it has ended and been reaped, or is not visible from here
   */
  peerPidFd(): PidFd {
    const fd = native().unixPeerPidfd(this.fd);
    if (fd >= 0) return pidfdOf(fd);
    if (fd === -ENOPROTOOPT) {
      const { pid } = this.peer();
      if (pid > 0) return PidFd.open(pid);
    }
    const why = NO_DESCRIPTOR[-fd] ?? 'there is no process at the other end: it has ended, or is not visible from here';
    throw systemError(`UnixSocket.peerPidFd: ${why}`, -fd, 'getsockopt');
  }

  /**
   * Calls back when there is something to `fill`, also at the end, and again as long as it is there. One watch at a time. While the
   * queues are full nothing is taken from the kernel, so empty them, or close the watch.
   */
  onReadable(callback: () => void, options: WatchOptions = {}): Watch {
    const { fd } = this;
    this.#watch = Watch.start(fd, callback, options);
    return this.#watch;
  }

  /** Gives the descriptor away: this object is closed then, the descriptor is yours. The queues must be empty. */
  intoFd(): number {
    const { fd } = this;
    if (this.available > 0 || this.fdCount > 0) {
      throw wrongType(
        `UnixSocket.intoFd: ${this.available} bytes and ${this.fdCount} descriptors are in the queues and would be lost: take them first`,
      );
    }
    this.#watch?.close();
    this.#fd = -1;
    return fd;
  }

  /** Closes the socket, its watch, and the descriptors that nobody took. Idempotent. */
  close(): void {
    if (this.#fd < 0) return;
    this.#watch?.close();
    native().descriptorClose(this.#fd);
    for (const fd of this.#fds.splice(0)) native().descriptorClose(fd);
    this.#bytes.clear();
    this.#fd = -1;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
