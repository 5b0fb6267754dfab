/** A limit on the memory of several segments. Any thread; the core does the accounting. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { guarded } from '../errors/from-native.js';
import { native } from '../native/load.js';
import { parseSize } from '../options/sizes.js';

/** What the segments of a budget use, in bytes. */
export interface BudgetStats {
  /** Charged now: pages, and what is staged for eviction. */
  used: number;
  limit: number;
  resident: number;
  staged: number;
  pinned: number;
}

const forgotten = new FinalizationRegistry<number>((id) => native().budgetRelease(id));

const ids = new WeakMap<Budget, number>();

/** One limit for many segments: pass it as `resident`. Made by {@link budget}. */
export class Budget {
  /** Bytes. A segment counts at least four of its pages, however low the limit is. */
  readonly limit: number;
  #closed = false;

  /** Use {@link budget}. */
  constructor(limit: number, id: number) {
    this.limit = limit;
    ids.set(this, id);
    forgotten.register(this, id, this);
  }

  /** Bytes charged now. */
  get used(): number {
    return this.stats().used;
  }

  stats(): BudgetStats {
    const out = new Float64Array(5);
    const id = budgetId(this);
    guarded(undefined, () => native().budgetStats(id, out));
    const [used = 0, limit = 0, resident = 0, staged = 0, pinned = 0] = out;
    return { used, limit, resident, staged, pinned };
  }

  /** No further segment can use it. It goes on to bound those that do. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    forgotten.unregister(this);
    native().budgetRelease(budgetId(this));
    ids.delete(this);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** The core's id of a budget. Throws for one that is closed. */
export function budgetId(of: Budget): number {
  const id = ids.get(of);
  if (id === undefined) throw wrongType(`the budget is closed, or is ${shown(of)} that budget() did not make`);
  return id;
}

/**
 * A limit, in bytes or as '256MiB', that several segments share.
 *
 * @example
 * const shared = budget('256MiB');
 * const a = await map(file('a.bin'), { resident: shared });
 * const b = await map(file('b.bin'), { resident: shared });
 */
export function budget(limit: number | string): Budget {
  const bytes = parseSize('budget(): limit', limit);
  if (bytes === 0) throw outOfRange('budget(): limit must be at least one page, not 0');
  return new Budget(
    bytes,
    guarded(undefined, () => native().budgetCreate(bytes)),
  );
}
