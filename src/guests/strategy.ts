/** When pages are brought, and whether they may be taken away again. Plain data. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';

/**
 * - `on-demand`: each page when it is touched;
 * - `read-ahead`: with each page that is touched the next ones too;
 * - `eager`: all of them before the child goes on;
 * - `budget`: on demand, and the oldest go when more than `resident` are there.
 */
export type Strategy = 'on-demand' | 'read-ahead' | 'eager' | 'budget';

export const STRATEGIES: readonly Strategy[] = ['on-demand', 'read-ahead', 'eager', 'budget'];

/** What all regions of a process share, and what may change while it runs. */
export interface Policy {
  strategy: Strategy;
  /** Pages that come with each page touched, in `read-ahead`. */
  readahead: number;
  /** Bytes that may be there at once, in `budget`. */
  residentBytes: number;
  readonly trackWrites: boolean;
}

export function checkStrategy(who: string, value: unknown): Strategy {
  const found = STRATEGIES.find((strategy) => strategy === value);
  if (found !== undefined) return found;
  throw wrongType(`${who}: strategy must be one of ${STRATEGIES.join(', ')}, not ${shown(value)}`);
}

export function checkReadahead(who: string, value: unknown): number {
  if (Number.isSafeInteger(value) && Number(value) >= 1 && Number(value) <= 65_536) return Number(value);
  throw outOfRange(`${who}: readahead must be a whole number of pages from 1 to 65536, not ${shown(value)}`);
}
