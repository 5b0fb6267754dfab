/** Guests with known numbers. */
import { EventEmitter } from 'node:events';
import type { ObservedNumbers, RestoreProgress } from 'pagefault/observe';

export function buckets(counts: Record<number, number>): number[] {
  return Array.from({ length: 40 }, (_, i) => counts[i] ?? 0);
}

/** Every number is another one, so that none can stand for a second. */
export const NUMBERS = {
  faults: 1201,
  blockedUs: 34_500_000,
  histogram: buckets({ 5: 1, 12: 1000, 13: 150, 20: 50 }),
  demand: 1102,
  prefetched: 2203,
  prefetchHits: 1904,
  wasted: 299,
  zero: 506,
  removed: 37,
  deferred: 18,
  duplicates: 81,
  failures: 9,
  retries: 10,
  pages: 65_536,
  present: 3774,
  bytesCopied: 13_537_280,
  threads: [
    { tid: 4711, faults: 1000, blockedUs: 30_000_000 },
    { tid: 4712, faults: 201, blockedUs: 4_500_000 },
  ],
  atUs: 5_000_000,
} satisfies ObservedNumbers;

export class FakeGuest extends EventEmitter {
  readonly id: number;
  readonly name: string;
  readonly pid: number;
  restore: RestoreProgress | undefined;
  /** Undefined: they are gone, with the guest. */
  now: ObservedNumbers | undefined = NUMBERS;

  constructor(id: number, name: string, pid: number) {
    super();
    this.id = id;
    this.name = name;
    this.pid = pid;
  }

  numbers(): ObservedNumbers {
    if (this.now === undefined) throw new Error('the guest is gone');
    return this.now;
  }
}

export class FakeServer extends EventEmitter {
  readonly guests = new Set<FakeGuest>();

  add(guest: FakeGuest): FakeGuest {
    this.guests.add(guest);
    this.emit('guest', guest);
    return guest;
  }
}
