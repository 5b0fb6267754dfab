/** Thrown by a scan that stopped on its way. Any thread. */

import { SystemError } from '../errors/system-error.js';
import type { PageSpan } from './scan-pages.js';

/** The kernel stopped a scan. With `rearm`, `spans` is the only word there is of the writes in them: they are re-armed already. */
export class PageScanError extends SystemError {
  /** What was found before. */
  readonly spans: readonly PageSpan[];

  constructor(message: string, errno: number, spans: readonly PageSpan[]) {
    super('ERR_PAGEFAULT_SYSTEM', message, { errno, syscall: 'ioctl' });
    this.spans = spans;
  }
}
