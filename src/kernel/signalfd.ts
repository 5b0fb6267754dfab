/** Signals of the process as a descriptor (signalfd), with who sent them. Any thread. */

import { constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import type { SystemError } from '../errors/system-error.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { type ChildStatus, childStatus, signalName, signalNumber } from './child-status.js';
import { closedError, systemError } from './descriptor.js';
import { Watch, type WatchOptions } from './watch.js';

export interface SignalFdOptions {
  /**
   * Allows SIGCHLD. While the SignalFd is open, `node:child_process` does not learn of the end of its children; it does when it is closed.
   * @default false
   */
  takeChildSignals?: boolean;
}

/** A signal that came. */
export interface SignalInfo {
  signal: string;
  /** Who sent it, or which child it is about; 0 where the kernel sent it or the process is not visible from here. */
  pid: number;
  uid: number;
  /** `si_code`: 0 kill, -1 sigqueue, -6 tgkill, 128 the kernel; of SIGCHLD 1 exited, 2 killed, 3 dumped, 5 stopped, 6 continued. */
  code: number;
  /** Of SIGCHLD: exit code or signal. */
  status: number;
  /** Of SIGCHLD: what became of the child. */
  childStatus?: ChildStatus;
}

const { EAGAIN, EBUSY, EMFILE, ETIMEDOUT } = constants.errno;
const { SIGCHLD } = constants.signals;
const FIELDS = 5;
const AT_ONCE = 16;
const NEVER: Readonly<Record<string, string>> = {
  SIGKILL: 'the kernel lets nobody have it',
  SIGSTOP: 'the kernel lets nobody have it',
  SIGSEGV: 'it belongs to the instruction that faults',
  SIGBUS: 'it belongs to the instruction that faults',
  SIGFPE: 'it belongs to the instruction that faults',
  SIGILL: 'it belongs to the instruction that faults',
  SIGTRAP: 'it belongs to debuggers and to attempt()',
  SIGPROF: 'the profiler of V8 needs it',
  SIGUSR1: 'Node.js starts its inspector with it',
};

function checkSignal(signal: unknown, takeChildSignals: boolean): number {
  const number = signalNumber('SignalFd.open', signal, 1);
  const name = signalName(number);
  const why = NEVER[name];
  if (why !== undefined) throw outOfRange(`SignalFd.open: ${name} cannot be taken: ${why}`);
  if (number === 32 || number === 33) throw outOfRange('SignalFd.open: the C library keeps the signals 32 and 33');
  if (number === SIGCHLD && !takeChildSignals) {
    const sentence =
      'SignalFd.open: SIGCHLD is refused without { takeChildSignals: true }: node:child_process would not learn of the end of its children while it is open';
    throw outOfRange(sentence);
  }
  return number;
}

function openFailure(names: string, errno: number): SystemError {
  const sentences: Record<number, string> = {
    [EBUSY]: 'another SignalFd of this process has one of them',
    [ETIMEDOUT]: 'a thread of this process did not answer within a second, so it could not be told to block them',
    [EAGAIN]: 'no real-time signal is free, and one is needed to reach all threads',
    [EMFILE]: 'no more descriptors may be open (ulimit -n)',
  };
  return systemError(`SignalFd.open: cannot take ${names}: ${sentences[errno] ?? 'it failed'}`, errno, 'signalfd4');
}

/**
 * Takes signals that are sent to the process: as long as it is open they have no other effect, neither their default action nor the
 * listeners of `process.on`, and are read here, with their sender. One signal that comes twice before it is read is one (POSIX).
 *
 * For this every thread of the process must block them: `open` makes each thread do it, Node's own and those of Workers, and `close` undoes
 * it, which takes some 20 ms each; threads that are made meanwhile inherit it, child processes do not. Signals that are sent to one thread are not seen. One SignalFd a signal and
 * process. It must be closed by hand: with a Worker that ends, it is not.
 */
export class SignalFd implements Disposable {
  readonly #bits: bigint;
  readonly #out = new Int32Array(FIELDS * AT_ONCE);
  #fd: number;
  #watch: Watch | undefined;

  private constructor(fd: number, bits: bigint) {
    this.#fd = fd;
    this.#bits = bits;
  }

  /**
   * @throws {RangeError} a signal that cannot be taken: SIGKILL, SIGSTOP, those of faults, SIGPROF, SIGUSR1, and SIGCHLD without its option
   * @throws {SystemError} another SignalFd has it (EBUSY), a thread does not answer (ETIMEDOUT)
   */
  static open(signals: readonly NodeJS.Signals[], options: SignalFdOptions = {}): SignalFd {
    if (!Array.isArray(signals) || signals.length === 0) {
      throw wrongType(`SignalFd.open: the signals must be an array of names that is not empty, not ${shown(signals)}`);
    }
    checkKeys('SignalFd.open', options, ['takeChildSignals']);
    const { takeChildSignals = false } = options;
    if (typeof takeChildSignals !== 'boolean') {
      throw wrongType(`SignalFd.open: option 'takeChildSignals' must be true or false, not ${shown(takeChildSignals)}`);
    }
    let bits = 0n;
    for (const signal of signals) bits |= 1n << BigInt(checkSignal(signal, takeChildSignals) - 1);
    const fd = native().signalsOpen(bits);
    if (fd < 0) throw openFailure(signals.join(', '), -fd);
    return new SignalFd(fd, bits);
  }

  /** The descriptor, which stays this object's. */
  get fd(): number {
    if (this.#fd < 0) throw closedError('SignalFd');
    return this.#fd;
  }

  get closed(): boolean {
    return this.#fd < 0;
  }

  /** All signals that have come since the last call; empty: none. Never blocks. */
  read(): SignalInfo[] {
    const { fd } = this;
    const infos: SignalInfo[] = [];
    for (;;) {
      const count = native().signalsRead(fd, this.#out);
      if (count === -EAGAIN) return infos;
      if (count < 0) throw systemError('SignalFd.read: it failed', -count, 'read');
      for (let i = 0; i < count; i++) infos.push(this.#info(i * FIELDS));
    }
  }

  #info(at: number): SignalInfo {
    const [number = 0, code = 0, pid = 0, uid = 0, status = 0] = this.#out.subarray(at, at + FIELDS);
    const info: SignalInfo = { signal: signalName(number), pid, uid: uid >>> 0, code, status };
    const child = number === SIGCHLD && code > 0 ? childStatus(code, status) : undefined;
    return child === undefined ? info : { ...info, childStatus: child };
  }

  /** Calls back when there is something to `read`. One watch at a time. */
  onReadable(callback: () => void, options: WatchOptions = {}): Watch {
    const { fd } = this;
    this.#watch = Watch.start(fd, callback, options);
    return this.#watch;
  }

  /**
   * The signals have their own effect again. What came and was not read is dropped; after SIGCHLD, `node:child_process` looks for
   * children that ended meanwhile. Idempotent.
   */
  close(): void {
    if (this.#fd < 0) return;
    this.#watch?.close();
    native().signalsClose(this.#fd, this.#bits);
    this.#fd = -1;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
