/**
 * How many reads of one store may be in flight, and in which order the others follow: those that a thread waits for
 * before those that are read ahead, each in the order in which they came. Runs in the pager's Worker.
 */

export class Lane<Job> {
  readonly #limit: number;
  #inFlight = 0;
  readonly #demand: Job[] = [];
  readonly #ahead: Job[] = [];

  constructor(limit: number) {
    this.#limit = limit;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  get waiting(): number {
    return this.#demand.length + this.#ahead.length;
  }

  /** Takes a place if one is free. Whoever got one calls `leave` once. */
  enter(): boolean {
    if (this.#inFlight >= this.#limit) return false;
    this.#inFlight += 1;
    return true;
  }

  /** Queues a job that found no place. */
  wait(job: Job, ahead: boolean): void {
    (ahead ? this.#ahead : this.#demand).push(job);
  }

  /** Gives a place back. The job returned has it now and must be begun. */
  leave(): Job | undefined {
    const next = this.#demand.shift() ?? this.#ahead.shift();
    if (next === undefined) this.#inFlight -= 1;
    return next;
  }

  /** Empties the queue, for a store that is being closed. */
  drain(): Job[] {
    return [...this.#demand.splice(0), ...this.#ahead.splice(0)];
  }
}
