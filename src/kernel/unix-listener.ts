/** A Unix stream socket that listens at a path. The thread that made it. */

import { lstatSync } from 'node:fs';
import { constants } from 'node:os';
import { resolve } from 'node:path';
import { outOfRange, shown } from '../errors/argument.js';
import { SOCKET_KIND } from '../native/kernel/process.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { checkFd, closedError, NO_DESCRIPTOR, systemError, wrongDescriptor } from './descriptor.js';
import { checkPath, UnixSocket, type UnixSocketOptions } from './unix-socket.js';
import { Watch, type WatchOptions } from './watch.js';

export interface ListenOptions {
  /**
   * How many connections may wait to be accepted.
   * @default 128
   */
  backlog?: number;
  /**
   * Permissions of the file, such as 0o600: who may write to it may connect.
   * @default what the umask leaves of 0o777
   */
  mode?: number;
}

const { EACCES, EADDRINUSE, EAGAIN, ENOENT, ENOTDIR, EROFS } = constants.errno;

function listenFailure(path: string, errno: number): Error {
  const sentences: Record<number, string> = {
    ...NO_DESCRIPTOR,
    [EADDRINUSE]: 'the path exists: a process listens there, or one left it behind (then remove it)',
    [ENOENT]: 'its directory does not exist',
    [ENOTDIR]: 'a part of the path is no directory',
    [EACCES]: 'writing to its directory is not permitted',
    [EROFS]: 'its directory is on a read-only file system',
  };
  const why = sentences[errno] ?? 'it failed';
  return systemError(`UnixListener.listen: cannot listen at ${shown(path)}: ${why}`, errno, 'bind');
}

function checkNumber(name: string, value: unknown, least: number, most: number): void {
  if (typeof value === 'number' && Number.isInteger(value) && value >= least && value <= most) return;
  const sentence = `UnixListener.listen: option '${name}' must be an integer from ${least} to ${most}, not ${shown(value)}`;
  throw outOfRange(sentence);
}

/** Listens at a path until it is closed, which removes the file, if it is still the one that it made. */
export class UnixListener implements Disposable {
  /** Absolute. */
  readonly path: string;
  readonly #given: string;
  readonly #made: readonly bigint[];
  #fd: number;
  #watch: Watch | undefined;

  private constructor(fd: number, path: string, made: readonly bigint[]) {
    this.#fd = fd;
    this.#given = path;
    this.path = resolve(path);
    this.#made = made;
  }

  /**
   * Makes the file and listens. Nothing that exists is overwritten.
   * @throws {SystemError} the path exists (EADDRINUSE), its directory does not (ENOENT)
   * @throws {RangeError} the path has more than 107 bytes
   */
  static listen(path: string, options: ListenOptions = {}): UnixListener {
    checkPath('UnixListener.listen', path);
    checkKeys('UnixListener.listen', options, ['backlog', 'mode']);
    const { backlog = 128, mode } = options;
    checkNumber('backlog', backlog, 0, 65_535);
    if (mode !== undefined) checkNumber('mode', mode, 0, 0o777);
    const made: bigint[] = [];
    const fd = native().unixListen(path, backlog, mode ?? -1, made);
    if (fd < 0) throw listenFailure(path, -fd);
    return new UnixListener(fd, path, made);
  }

  /**
   * Adopts a descriptor that listens, such as one that another process has handed over; `path` is where its file is. On an error it stays the
   * caller's.
   * @throws {DescriptorError} it does not listen
   */
  static fromFd(fd: number, path: string): UnixListener {
    checkFd('UnixListener.fromFd', fd);
    checkPath('UnixListener.fromFd', path);
    if (native().unixKind(fd) !== SOCKET_KIND.stream + SOCKET_KIND.listening) {
      throw wrongDescriptor('UnixListener.fromFd', fd, 'a Unix stream socket that listens');
    }
    const found = lstatSync(path, { bigint: true, throwIfNoEntry: false });
    return new UnixListener(fd, path, found?.isSocket() === true ? [found.dev, found.ino] : []);
  }

  /** The descriptor, which stays this object's. */
  get fd(): number {
    if (this.#fd < 0) throw closedError('UnixListener');
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /** The oldest connection that waits; undefined: there is none. */
  accept(options: UnixSocketOptions = {}): UnixSocket | undefined {
    const fd = native().unixAccept(this.fd);
    if (fd === -EAGAIN) return undefined;
    if (fd < 0) {
      const full = NO_DESCRIPTOR[-fd];
      const why = full === undefined ? 'it failed' : `${full}; the connection waits`;
      throw systemError(`UnixListener.accept: ${why}`, -fd, 'accept4');
    }
    try {
      return UnixSocket.fromFd(fd, options);
    } catch (error) {
      native().descriptorClose(fd);
      throw error;
    }
  }

  /** Calls back when there is somebody to `accept`. One watch at a time. */
  onReadable(callback: () => void, options: WatchOptions = {}): Watch {
    const { fd } = this;
    this.#watch = Watch.start(fd, callback, options);
    return this.#watch;
  }

  /** Removes the file, unless something else is there by now: nobody can connect any more, and whoever has connected can be accepted. */
  removeFile(): void {
    const [device, inode] = this.#made;
    if (device !== undefined && inode !== undefined) native().unixUnlink(this.#unlinkPath(), device, inode);
  }

  /** Lets go of the descriptor, and leaves the file: somebody else listens there, too. Idempotent. */
  release(): void {
    if (this.#fd < 0) return;
    this.#watch?.close();
    native().descriptorClose(this.#fd);
    this.#fd = -1;
  }

  /** Stops listening and removes the file, unless something else is there by now. Idempotent. */
  close(): void {
    if (this.#fd < 0) return;
    this.release();
    this.removeFile();
  }

  /** Where the file is also after the working directory has changed, as far as the kernel takes so long a path. */
  #unlinkPath(): string {
    return Buffer.byteLength(this.path) <= 107 ? this.path : this.#given;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
