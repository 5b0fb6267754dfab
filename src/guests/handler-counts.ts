/** What the signal handlers of this process have done: part of the statistics of everything that pages for others. Any thread. */

import { native } from '../native/load.js';

/** Of the whole process, whichever pager or server is asked. */
export interface HandlerCounts {
  /** Signals that were no faults of ours and were handed on to the handler that was there before. */
  readonly forwardedSignals: number;
  /** How often handlers of SIGBUS and SIGSEGV that something else had replaced were put back. */
  readonly handlerReinstalls: number;
}

export function handlerCounts(): HandlerCounts {
  const core = native();
  return { forwardedSignals: core.forwardedSignals(), handlerReinstalls: core.checkHandlers(false) };
}
