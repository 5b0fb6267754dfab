/** The events of a segment. */

import type { PagefaultError } from '../errors/pagefault-error.js';
import type { NativeStall } from '../native/binding.js';

/**
 * 'pageerror': the store failed or did not answer in time, whoever had asked: a read that was given up, a write (of a flush or an eviction), a sync, an `onWrite`; or
 * there was no memory or no room in the budget until the deadline. Told within a second, on each thread that has the segment open. The core keeps the last 64 failures
 * of the process.
 */
export class PageErrorEvent extends Event {
  /** With `code`, `segment`, `offset`, `page` and `cause`. */
  readonly error: PagefaultError;
  /** Of the segment: e.g. `file(/data/vectors.f32)`. */
  readonly store: string;

  constructor(error: PagefaultError, store: string) {
    super('pageerror');
    this.error = error;
    this.store = store;
  }
}

/** What is known of a page that is late. */
export type Stall = NativeStall;

/**
 * 'stall': a page takes longer than `stallAfterMs`, and its deadline is still to come. Told once a wait, within a second, on each thread that has the segment open and
 * is not stopped itself.
 */
export class StallEvent extends Event implements Stall {
  readonly offset: number;
  readonly page: number;
  readonly waitedMs: number;
  readonly threadId: number;
  readonly store: string;
  readonly doing: string;

  constructor({ offset, page, waitedMs, threadId, store, doing }: Stall) {
    super('stall');
    this.offset = offset;
    this.page = page;
    this.waitedMs = waitedMs;
    this.threadId = threadId;
    this.store = store;
    this.doing = doing;
  }
}

/** 'handlerlost': somebody had replaced our signal handler; it has been put back. */
export class HandlerLostEvent extends Event {
  /** How often that has happened in this process. */
  readonly reinstalls: number;

  constructor(reinstalls: number) {
    super('handlerlost');
    this.reinstalls = reinstalls;
  }
}
