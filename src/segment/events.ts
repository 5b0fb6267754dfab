/** The events of a segment. */

import type { PagefaultError } from '../errors/pagefault-error.js';

/** 'pageerror': a page was given up, whoever wanted it. Told within a second, on each thread that has the segment open. */
export class PageErrorEvent extends Event {
  readonly error: PagefaultError;

  constructor(error: PagefaultError) {
    super('pageerror');
    this.error = error;
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
