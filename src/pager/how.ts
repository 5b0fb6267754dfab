/** The last argument of a store's `read` and `write`. Made in the pager's Worker. */

import type { ReadHow, WriteHow } from '../stores/contract.js';

/** Most stores never look at the signal, so it is made when it is asked for. */
export class How implements WriteHow {
  #controller: AbortController | undefined;
  #aborted: Error | undefined;

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      if (this.#aborted !== undefined) this.#controller.abort(this.#aborted);
    }
    return this.#controller.signal;
  }

  abort(reason: Error): void {
    this.#aborted = reason;
    this.#controller?.abort(reason);
  }
}

/** The words for the core's numbers. */
const ACCESS = ['read', 'write', 'ahead'] as const;

/** Of a read. */
export class HowToRead extends How implements ReadHow {
  readonly access: ReadHow['access'];

  constructor(access: number) {
    super();
    this.access = ACCESS[access] ?? 'read';
  }
}
