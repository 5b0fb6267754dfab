/** Descriptors on the event loop of the thread that asks: a callback a few microseconds after one is readable. */

import { constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { DescriptorError } from '../errors/descriptor-error.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { checkFd, systemError, wrongDescriptor } from './descriptor.js';

export interface WatchOptions {
  /**
   * Whether the watch keeps the event loop, and so the process or Worker, alive.
   * @default true
   */
  keepAlive?: boolean;
  /**
   * For how many microseconds, up to 1000, the thread looks again after each callback before it sleeps. Being woken takes single-digit
   * microseconds, in a virtual machine tens; this spares them where the next message comes that soon, and costs processor time. It is tried only
   * as long as it pays, by one watch a thread (with several, none does), and for 2 ms at most the loop's other work waits.
   * @default 0
   */
  busyPollUs?: number;
}

/** What a watch is made of. */
export interface WatchSource {
  ref(keepsAlive: boolean): void;
  /** Called once. */
  stop(): void;
}

/** `at`: when the descriptor was found readable, in milliseconds of the clock of `process.hrtime`. */
export type Readable = (at: number) => void;

/** Of a watch that reads by itself. `got`: bytes read, or -errno. @internal */
export type ReadDone = (at: number, got: number) => void;

const { EBADF, EEXIST, EPERM } = constants.errno;

/** Throws unless `callback` is a function. */
export function checkCallback(who: string, callback: unknown): void {
  if (typeof callback === 'function') return;
  throw wrongType(`${who}: the callback must be a function, not ${shown(callback)}`);
}

function refusal(fd: number, errno: number): Error {
  if (errno === EBADF) return wrongDescriptor('watch', fd, 'an open descriptor');
  if (errno === EPERM) {
    const sentence = `watch: descriptor ${fd} is a file or a directory, which is always readable and cannot be watched`;
    return new DescriptorError('ERR_PAGEFAULT_WRONG_DESCRIPTOR', sentence, { errno, syscall: 'epoll_ctl' });
  }
  const sentence =
    errno === EEXIST
      ? `descriptor ${fd} is watched on this thread already, and the event loop watches a descriptor once: close that watch first, or watch a duplicate`
      : `the event loop cannot watch descriptor ${fd}`;
  return systemError(sentence, errno, 'uv_poll_init');
}

/**
 * A descriptor that is being watched: its callback runs on the event loop of the thread that made the watch whenever the
 * descriptor is readable, at its end or in error, and again as long as it is (level-triggered). What the matter is, the
 * read tells. An exception of the callback is an uncaught one, and the watch goes on.
 *
 * One watch a descriptor and thread: libuv refuses a second one. The descriptor is made non-blocking. It must stay open until `close`
 * has returned; the classes of this library close their watch with themselves. A watch ends with its Worker.
 */
export class Watch implements Disposable {
  readonly #source: WatchSource;
  #closed = false;

  /** Made by {@link Watch.start}. */
  private constructor(source: WatchSource) {
    this.#source = source;
  }

  /**
   * Begins to watch. `ended` runs once, when the watch has been closed. With a `buffer`, which must be nobody else's, the watch reads
   * into it by itself, and the callback's second argument is what read(2) gave. @internal but for the first three arguments
   * @throws {DescriptorError} not open, or a file or directory, which cannot be watched
   * @throws {SystemError} watched on this thread already (EEXIST)
   */
  static start(
    fd: number,
    callback: ReadDone,
    options: WatchOptions = {},
    ended?: () => void,
    buffer?: Uint8Array,
  ): Watch {
    checkFd('watch', fd);
    checkCallback('watch', callback);
    checkKeys('watch', options, ['keepAlive', 'busyPollUs']);
    const { keepAlive = true, busyPollUs = 0 } = options;
    if (typeof keepAlive !== 'boolean') {
      throw wrongType(`watch: option 'keepAlive' must be true or false, not ${shown(keepAlive)}`);
    }
    if (!Number.isInteger(busyPollUs) || busyPollUs < 0 || busyPollUs > 1000) {
      throw outOfRange(`watch: busyPollUs must be a whole number from 0 to 1000, not ${shown(busyPollUs)}`);
    }
    const id = native().watchStart(fd, callback, busyPollUs, buffer);
    if (id < 0) throw refusal(fd, -id);
    const watch = new Watch({
      ref: (keepsAlive) => native().watchRef(id, keepsAlive),
      stop: () => {
        native().watchStop(id);
        ended?.();
      },
    });
    return keepAlive ? watch : watch.unref();
  }

  /** A watch over something that is made of several. @internal */
  static over(source: WatchSource): Watch {
    return new Watch(source);
  }

  /** True once it has been closed. */
  get closed(): boolean {
    return this.#closed;
  }

  /** The watch keeps the event loop alive. */
  ref(): this {
    if (!this.#closed) this.#source.ref(true);
    return this;
  }

  /** The watch does not keep the event loop alive. */
  unref(): this {
    if (!this.#closed) this.#source.ref(false);
    return this;
  }

  /** The callback is never called again. The descriptor stays open, and stays the caller's. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#source.stop();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Calls `callback` whenever `fd` is readable: see {@link Watch}. */
export function watch(fd: number, callback: Readable, options: WatchOptions = {}): Watch {
  return Watch.start(fd, callback, options);
}
