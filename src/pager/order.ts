/**
 * One thing that the core asks of a store, which did not end within `dispatch`: it waits for a place, for the store's
 * promise, or for its next try. Made and used in the pager's Worker only.
 */

import type { PageErrorCode } from '../errors/codes.js';
import type { Buffers } from './buffers.js';
import type { How } from './how.js';
import type { Place } from './lane.js';
import type { OpenedStore } from './opened-store.js';
import type { Write } from './write.js';

/** What `ask` calls. */
export interface Call {
  readonly method: 'read' | 'write' | 'onWrite' | 'sync';
  readonly from: OpenedStore;
  /** Calls the store. */
  call(): unknown;
}

export abstract class Order implements Call {
  readonly slot: number;
  readonly from: OpenedStore;
  /** In ms of `performance.now()`. */
  readonly deadline: number;
  readonly timeoutMs: number;
  /** Of the try that is under way. */
  how: How | undefined;
  /** True while a promise of the store is awaited: the store may use the slot's buffer. */
  awaited = false;
  /** The place that it has in the store's lane. */
  placed: Place | undefined;
  /** True once the core has its answer; what the store says after that is of no use. */
  over = false;
  failed = 0;
  lastError: unknown;

  /** False: a failure is final. */
  readonly repeats: boolean = true;
  abstract readonly method: Call['method'];
  /** The place that it needs there. */
  abstract readonly place: Place;
  /** Of the failure where the store goes on throwing. */
  abstract readonly code: PageErrorCode;

  constructor(slot: number, from: OpenedStore, timeoutMs: number) {
    this.slot = slot;
    this.from = from;
    this.timeoutMs = timeoutMs;
    this.deadline = performance.now() + timeoutMs;
  }

  /** What has to end before this may be tried; undefined: nothing. */
  obstacle(): Write | undefined {
    return undefined;
  }

  /** Makes ready for a try. False: the core has taken the order away. */
  abstract prepare(buffers: Buffers): boolean;

  abstract call(): unknown;

  /** What the core gets for the store's answer. Throws `Refused`. */
  abstract accept(answer: unknown): number;
}
