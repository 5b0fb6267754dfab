/**
 * How many calls of one store may be in flight, and in which order the others follow. Runs in the pager's Worker.
 *
 * What a thread waits for ('demand') goes before what is read ahead ('ahead'), which leaves a quarter of the places free: its
 * reads may be long, and a thread that is stopped should not have to wait for the end of one. Writing out ('write') has at most half of
 * the places, so that a thread that is stopped finds one soon; and where both wait, demand and writes get the places that
 * become free in turn, because under a budget the stopped threads may wait for what is being written.
 */

/** What a place in the lane is for. */
export type Place = 'demand' | 'ahead' | 'write';

export class Lane<Job> {
  readonly #limit: number;
  readonly #mostWrites: number;
  readonly #mostAhead: number;
  #inFlight = 0;
  #writing = 0;
  #readingAhead = 0;
  #wroteLast = false;
  readonly #waiting: Record<Place, Job[]> = { demand: [], ahead: [], write: [] };

  constructor(limit: number) {
    this.#limit = limit;
    this.#mostWrites = Math.max(1, Math.floor(limit / 2));
    this.#mostAhead = limit - Math.floor(limit / 4);
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  get waiting(): number {
    const { demand, ahead, write } = this.#waiting;
    return demand.length + ahead.length + write.length;
  }

  /** Takes a place if one is free. Whoever got one calls `leave` once. */
  enter(place: Place): boolean {
    if (this.#inFlight >= this.#limit) return false;
    if (place === 'write') {
      if (this.#writing >= this.#mostWrites) return false;
      this.#writing += 1;
    }
    if (place === 'ahead') {
      if (this.#readingAhead >= this.#mostAhead) return false;
      this.#readingAhead += 1;
    }
    this.#inFlight += 1;
    return true;
  }

  /** Queues a job that found no place. */
  wait(job: Job, place: Place): void {
    this.#waiting[place].push(job);
  }

  /** Takes a job out of the queue; false: it is not in it. */
  forget(job: Job, place: Place): boolean {
    const index = this.#waiting[place].indexOf(job);
    if (index < 0) return false;
    this.#waiting[place].splice(index, 1);
    return true;
  }

  /** Gives a place back. The job returned has it now, as what it waited for, and must be begun. */
  leave(place: Place): Job | undefined {
    this.#inFlight -= 1;
    if (place === 'write') this.#writing -= 1;
    if (place === 'ahead') this.#readingAhead -= 1;
    const next = this.#next();
    if (next === undefined) return undefined;
    this.enter(next);
    this.#wroteLast = next === 'write';
    return this.#waiting[next].shift();
  }

  /** Empties the queue, for a store that is being closed. */
  drain(): Job[] {
    const { demand, ahead, write } = this.#waiting;
    return [...demand.splice(0), ...ahead.splice(0), ...write.splice(0)];
  }

  #next(): Place | undefined {
    const { demand, ahead, write } = this.#waiting;
    const mayWrite = write.length > 0 && this.#writing < this.#mostWrites;
    if (mayWrite && !(this.#wroteLast && demand.length > 0)) return 'write';
    if (demand.length > 0) return 'demand';
    return ahead.length > 0 && this.#readingAhead < this.#mostAhead ? 'ahead' : undefined;
  }
}
