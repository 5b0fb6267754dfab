/**
 * Waits for the end of a process by a pidfd of its own. The pidfd is readable from the end on, but how a process ended that is no child is
 * known only once its parent has reaped it; a level-triggered watch would spin until then, so a timer looks instead.
 *
 *   watching ──▶ readable, status known ──▶ called
 *           └──▶ readable, not reaped ──▶ looking, for a second ──▶ called, with 'gone' at the worst
 */

import { native } from '../native/load.js';
import type { ChildStatus } from './child-status.js';
import { Watch, type WatchOptions } from './watch.js';

const LOOKS_MS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];

export class ExitWatcher {
  readonly #fd: number;
  readonly #poll: () => ChildStatus | undefined;
  readonly #callback: (status: ChildStatus) => void;
  #inner: Watch | undefined;
  #outer: Watch | undefined;
  #timer: NodeJS.Timeout | undefined;
  #keepsAlive = true;
  #looks = 0;

  /** `fd` is a duplicate, closed when the watch ends. */
  constructor(fd: number, poll: () => ChildStatus | undefined, callback: (status: ChildStatus) => void) {
    this.#fd = fd;
    this.#poll = poll;
    this.#callback = callback;
  }

  /** The watch that the user gets: over the descriptor first, over the timer then. */
  start(options: WatchOptions, ended: () => void): Watch {
    try {
      this.#inner = Watch.start(this.#fd, () => this.#look(), options);
    } catch (error) {
      native().descriptorClose(this.#fd);
      throw error;
    }
    this.#keepsAlive = options.keepAlive ?? true;
    this.#outer = Watch.over({
      ref: (keepsAlive) => this.#ref(keepsAlive),
      stop: () => {
        this.#inner?.close();
        clearTimeout(this.#timer);
        native().descriptorClose(this.#fd);
        ended();
      },
    });
    return this.#outer;
  }

  #ref(keepsAlive: boolean): void {
    this.#keepsAlive = keepsAlive;
    if (keepsAlive) {
      this.#inner?.ref();
      this.#timer?.ref();
    } else {
      this.#inner?.unref();
      this.#timer?.unref();
    }
  }

  #look(): void {
    const status = this.#poll();
    if (status?.state === 'stopped' || status?.state === 'continued') return; // the end comes next: the descriptor is readable
    if (status !== undefined) {
      this.#end(status);
      return;
    }
    this.#inner?.close();
    const wait = LOOKS_MS[this.#looks++];
    if (wait === undefined) {
      this.#end({ state: 'gone' });
      return;
    }
    this.#timer = setTimeout(() => this.#look(), wait);
    if (!this.#keepsAlive) this.#timer.unref();
  }

  #end(status: ChildStatus): void {
    this.#outer?.close();
    this.#callback(status);
  }
}
