/** A process by a descriptor (pidfd): signals that never reach another one, its end on the event loop, its status. */

import { constants } from 'node:os';
import { isMainThread } from 'node:worker_threads';
import { PermissionError } from '../errors/permission-error.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import { WAIT } from '../native/kernel/process.js';
import { native } from '../native/load.js';
import { onChildSignal } from './child-signals.js';
import { type ChildStatus, childStatus, signalName, signalNumber } from './child-status.js';
import {
  checkFd,
  closedError,
  descriptorInfo,
  descriptorTarget,
  NO_DESCRIPTOR,
  systemError,
  wrongDescriptor,
} from './descriptor.js';
import { duplicateFd } from './duplicate.js';
import { ExitWatcher } from './exit-watcher.js';
import { checkPid } from './pid.js';
import { checkCallback, type Watch, type WatchOptions } from './watch.js';

const { ECHILD, EINVAL, ENOENT, ENOSYS, EPERM, ESRCH } = constants.errno;

function openFailure(pid: number, errno: number): Error {
  if (errno === ENOSYS) {
    const sentence = 'PidFd.open: this kernel has no pidfd_open, which came with Linux 5.3, or a sandbox hides it';
    return new UnsupportedError(sentence, undefined, ['pidfd_open']);
  }
  const sentences: Record<number, string> = {
    ...NO_DESCRIPTOR,
    [ESRCH]: `there is no process ${pid}`,
    [EINVAL]: `${pid} is a thread of a process, not its first one`,
    [ENOENT]: `${pid} is a thread of a process, not its first one`,
  };
  return systemError(`PidFd.open: ${sentences[errno] ?? 'it failed'}`, errno, 'pidfd_open');
}

/** The process id that the kernel tells of a pidfd: -1 once it is reaped; undefined: it is no pidfd. */
function pidOf(who: string, fd: number): number | undefined {
  if (descriptorTarget(fd) === undefined) return undefined;
  const found = /^Pid:\s*(-?\d+)$/m.exec(descriptorInfo(who, fd));
  return found?.[1] === undefined ? undefined : Number(found[1]);
}

/**
 * A process, for as long as this object is open, whoever gets its number later. Any process can be named, signalled (with the
 * permission that `kill` needs) and watched for its end. Of a child of this process the status is known at once; of another
 * process, and of a child that somebody else reaped, once it is reaped, and from Linux 6.15 on only (before: state 'gone').
 *
 * Neither the garbage collector nor the end of a Worker closes its descriptor, or that of a watch made by `onExit`: call `close`.
 *
 * libuv reaps the children that `node:child_process` makes: `poll`, `onExit` and `onChange` leave that to it and take nothing away. Linux 5.4.
 */
export class PidFd implements Disposable {
  /** The process id; -1 for a descriptor that was adopted after the process had been reaped. */
  readonly pid: number;
  readonly #watches = new Set<Watch>();
  readonly #out = new Int32Array(2);
  #fd: number;

  private constructor(fd: number, pid: number) {
    this.#fd = fd;
    this.pid = pid;
  }

  /**
   * Opens a process by its number. That it is still the one you mean is certain only for a child that nobody has reaped.
   * @throws {SystemError} there is no such process (ESRCH), or it is a thread (EINVAL, ENOENT)
   * @throws {UnsupportedError} before Linux 5.3
   */
  static open(pid: number): PidFd {
    checkPid('PidFd.open', pid);
    const fd = native().pidfdOpen(pid);
    if (fd < 0) throw openFailure(pid, -fd);
    return new PidFd(fd, pid);
  }

  /**
   * Adopts a pidfd. On an error it stays the caller's.
   * @throws {DescriptorError} it is not a pidfd
   */
  static fromFd(fd: number): PidFd {
    checkFd('PidFd.fromFd', fd);
    const pid = pidOf('PidFd.fromFd', fd);
    if (pid === undefined) throw wrongDescriptor('PidFd.fromFd', fd, 'a pidfd');
    return new PidFd(fd, pid);
  }

  /** The descriptor, which stays this object's. */
  get fd(): number {
    if (this.#fd < 0) throw closedError('PidFd');
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /**
   * Sends a signal to this process and no other. 0 sends none, and only asks whether one could be sent.
   * @throws {SystemError} the process has ended (ESRCH)
   * @throws {PermissionError} it belongs to somebody else
   */
  signal(signal: NodeJS.Signals | number): void {
    const number = signalNumber('PidFd.signal', signal, 0);
    const errno = -native().pidfdSignal(this.fd, number);
    if (errno === 0) return;
    const what = number === 0 ? 'no signal can be sent' : `${signalName(number)} cannot be sent`;
    const details = { errno, syscall: 'pidfd_send_signal' };
    if (errno === EPERM) {
      const sentence = `PidFd.signal: ${what} to process ${this.pid}: it belongs to another user, and this one has no CAP_KILL`;
      throw new PermissionError(sentence, details);
    }
    const why = errno === ESRCH ? 'the process has ended' : 'it failed';
    throw systemError(`PidFd.signal: ${what} to process ${this.pid}: ${why}`, errno, details.syscall);
  }

  /** False once it has ended, reaped or not. */
  isAlive(): boolean {
    const readable = native().descriptorIsReadable(this.fd);
    if (readable < 0) throw systemError('PidFd.isAlive: it cannot be told', -readable, 'poll');
    return readable === 0;
  }

  /**
   * What has become of the process; undefined: nothing new, or it has ended and its parent has not reaped it yet. Never blocks. An
   * exit is only looked at: whoever reaps the process still gets it, and `poll` returns it again. A stop or continuation of a child is
   * taken, and returned once.
   */
  poll(): ChildStatus | undefined {
    return this.#wait(WAIT.peek) ?? this.#wait(WAIT.stops);
  }

  /**
   * Takes the exit of a child: the kernel forgets the process. Not for children of `node:child_process`, which would never learn of their
   * end. undefined: it has not ended. Of a process that is reaped already, or no child, this returns what `poll` does.
   */
  reap(): ChildStatus | undefined {
    return this.#wait(WAIT.reap);
  }

  #wait(what: number): ChildStatus | undefined {
    const result = native().pidfdWait(this.fd, what, this.#out);
    if (result === 1) return childStatus(this.#out[0] ?? 0, this.#out[1] ?? 0);
    if (result === 0) return undefined;
    if (result === -ECHILD) return this.#foreignExit();
    throw systemError(`PidFd: the status of process ${this.pid} cannot be told`, -result, 'waitid');
  }

  /** Of a process that is no child, or no longer one. */
  #foreignExit(): ChildStatus | undefined {
    if (this.isAlive()) return undefined;
    const result = native().pidfdExit(this.fd, this.#out);
    if (result === 1) return childStatus(this.#out[0] ?? 0, this.#out[1] ?? 0);
    return result === 0 ? undefined : { state: 'gone' };
  }

  /**
   * Calls back once, when the process has ended, and is closed then. Of a process that is no child the callback comes when it is
   * reaped, at the latest a second after its end (state 'gone'). Also in a Worker.
   */
  onExit(callback: (status: ChildStatus) => void, options: WatchOptions = {}): Watch {
    return this.#watch(callback, options);
  }

  /**
   * Calls back whenever a child stops or continues, and once when the process ends, which closes the watch. Changes that follow each
   * other at once may be merged. Main thread only, because Workers are not told of SIGCHLD; not while a SignalFd takes SIGCHLD.
   * @throws {UnsupportedError} in a Worker: use `onExit`
   */
  onChange(callback: (status: ChildStatus) => void, options: WatchOptions = {}): Watch {
    if (!isMainThread) {
      const sentence =
        'PidFd.onChange: a Worker is not told when a child stops or continues: use onExit, or onChange on the main thread';
      throw new UnsupportedError(sentence);
    }
    let end: (() => void) | undefined;
    const watch = this.#watch(callback, options, () => end?.());
    const look = (): void => {
      for (let status = this.#stop(watch); status !== undefined; status = this.#stop(watch)) callback(status);
    };
    end = onChildSignal(look);
    setImmediate(look).unref(); // it may have stopped before
    return watch;
  }

  #stop(watch: Watch): ChildStatus | undefined {
    if (watch.closed || native().pidfdWait(this.fd, WAIT.stops, this.#out) !== 1) return undefined;
    return childStatus(this.#out[0] ?? 0, this.#out[1] ?? 0);
  }

  /** The event loop watches a descriptor once, and any number of watches may be made here: each has a duplicate. */
  #watch(callback: (status: ChildStatus) => void, options: WatchOptions, ended?: () => void): Watch {
    checkCallback('PidFd', callback);
    const watcher = new ExitWatcher(duplicateFd('PidFd', this.fd), () => this.poll(), callback);
    const watch = watcher.start(options, () => {
      this.#watches.delete(watch);
      ended?.();
    });
    this.#watches.add(watch);
    return watch;
  }

  /** Gives the descriptor away: this object and its watches are closed then, the descriptor is yours. */
  intoFd(): number {
    const { fd } = this;
    for (const watch of [...this.#watches]) watch.close();
    this.#fd = -1;
    return fd;
  }

  /** Closes the descriptor and the watches; the process goes on. Idempotent. */
  close(): void {
    if (this.#fd < 0) return;
    native().descriptorClose(this.intoFd());
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
