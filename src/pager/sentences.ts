/** What is said of a store that does not do what it is asked. */

import { reasonOf } from '../errors/reason.js';
import type { Call, Order } from './order.js';

const FAILED: Record<Call['method'], string> = {
  read: 'the store failed',
  write: 'the store could not write',
  onWrite: "the store's onWrite failed",
  sync: 'the store could not sync',
};

const LATE: Record<Call['method'], string> = {
  read: 'the store did not answer',
  write: 'the store did not write',
  onWrite: "the store's onWrite did not answer",
  sync: 'the store did not sync',
};

/** It threw or rejected, and is not asked again. */
export function sayFailed(method: Call['method'], error: unknown): string {
  return `${FAILED[method]}: ${reasonOf(error)}`;
}

/** The deadline of an order is over. */
export function sayLate({ method, timeoutMs, failed, lastError }: Order): string {
  const tries = failed === 0 ? '' : `; ${failed} tries failed before, the last with: ${reasonOf(lastError)}`;
  return `${LATE[method]} within ${Math.round(timeoutMs)} ms${tries}`;
}
