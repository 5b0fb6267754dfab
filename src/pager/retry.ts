/**
 * When a read that failed is tried again, and when it is given up. Plain functions and one timer; used in the pager's
 * Worker.
 */

import { propertyOf } from '../errors/reason.js';

const FIRST_PAUSE = 1;
const LONGEST_PAUSE = 250;

/**
 * Milliseconds to wait before the next try, or undefined when it is time to give up. `failed` tries have failed so far,
 * `remaining` ms of `timeoutMs` are left. The last try is made shortly before the deadline, so that it can still answer.
 */
export function pauseBeforeRetry(failed: number, remaining: number, timeoutMs: number): number | undefined {
  const lastTry = Math.min(50, timeoutMs / 10);
  if (remaining <= lastTry) return undefined;
  const pause = Math.min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** Math.min(failed - 1, 20));
  return Math.min(pause, remaining - lastTry);
}

/** True for an error that says that another try is of no use. */
export function isPermanent(error: unknown): boolean {
  return propertyOf(error, 'permanent') === true;
}

/** Something that must be over at a time, in ms of `performance.now()`. */
export interface Due {
  readonly deadline: number;
}

/**
 * Watches many deadlines with one timer, because a timer for each read would cost more than the read's bookkeeping. The
 * timer does not keep the thread alive.
 */
export class Deadlines<T extends Due> {
  readonly #due = new Set<T>();
  readonly #expired: (item: T) => void;
  #timer: NodeJS.Timeout | undefined;
  #armedFor = Number.POSITIVE_INFINITY;

  /** `expired` is called once for each item whose deadline is over; the item is not watched any more then. */
  constructor(expired: (item: T) => void) {
    this.#expired = expired;
  }

  add(item: T): void {
    this.#due.add(item);
    if (item.deadline < this.#armedFor) this.#arm(item.deadline);
  }

  /** The timer stays as it is: it looks again when it fires. */
  delete(item: T): void {
    this.#due.delete(item);
  }

  *[Symbol.iterator](): IterableIterator<T> {
    yield* this.#due;
  }

  #arm(deadline: number): void {
    clearTimeout(this.#timer);
    this.#armedFor = deadline;
    this.#timer = setTimeout(() => this.#look(), Math.max(1, Math.ceil(deadline - performance.now()))).unref();
  }

  #look(): void {
    this.#armedFor = Number.POSITIVE_INFINITY;
    const now = performance.now();
    let earliest = Number.POSITIVE_INFINITY;
    for (const item of this.#due) {
      if (item.deadline <= now) {
        this.#due.delete(item);
        this.#expired(item);
      } else if (item.deadline < earliest) {
        earliest = item.deadline;
      }
    }
    if (earliest < this.#armedFor) this.#arm(earliest);
  }
}
