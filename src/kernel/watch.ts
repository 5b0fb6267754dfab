/** Descriptors on the event loop of the thread that asks: a callback a few microseconds after one is readable. */

import { constants } from 'node:os';
import { shown, wrongType } from '../errors/argument.js';
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
}

const { EBADF, EEXIST, EPERM } = constants.errno;

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
  readonly #id: number;
  readonly #ended: (() => void) | undefined;
  #closed = false;

  /** Made by {@link Watch.start}. */
  private constructor(id: number, ended: (() => void) | undefined) {
    this.#id = id;
    this.#ended = ended;
  }

  /**
   * Begins to watch. `ended` runs once, when the watch has been closed.
   * @throws {DescriptorError} not open, or a file or directory, which cannot be watched
   * @throws {SystemError} watched on this thread already (EEXIST)
   */
  static start(fd: number, callback: () => void, options: WatchOptions = {}, ended?: () => void): Watch {
    checkFd('watch', fd);
    if (typeof callback !== 'function') {
      throw wrongType(`watch: the callback must be a function, not ${shown(callback)}`);
    }
    checkKeys('watch', options, ['keepAlive']);
    const { keepAlive = true } = options;
    if (typeof keepAlive !== 'boolean') {
      throw wrongType(`watch: option 'keepAlive' must be true or false, not ${shown(keepAlive)}`);
    }
    const id = native().watchStart(fd, callback);
    if (id < 0) throw refusal(fd, -id);
    const watch = new Watch(id, ended);
    return keepAlive ? watch : watch.unref();
  }

  /** True once it has been closed. */
  get closed(): boolean {
    return this.#closed;
  }

  /** The watch keeps the event loop alive. */
  ref(): this {
    if (!this.#closed) native().watchRef(this.#id, true);
    return this;
  }

  /** The watch does not keep the event loop alive. */
  unref(): this {
    if (!this.#closed) native().watchRef(this.#id, false);
    return this;
  }

  /** The callback is never called again. The descriptor stays open, and stays the caller's. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    native().watchStop(this.#id);
    this.#ended?.();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Calls `callback` whenever `fd` is readable: see {@link Watch}. */
export function watch(fd: number, callback: () => void, options: WatchOptions = {}): Watch {
  return Watch.start(fd, callback, options);
}
