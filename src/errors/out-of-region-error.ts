/** Thrown by a `Pager` for addresses that are not its own. Any thread. */

import { PagefaultError } from './pagefault-error.js';

/** The address lies in none of the pager's regions. */
export class OutOfRegionError extends PagefaultError {
  declare readonly code: 'ERR_PAGEFAULT_OUT_OF_REGION';
  readonly address: bigint;

  constructor(address: bigint, regions: number) {
    const known = regions === 0 ? 'none is registered' : `${regions} ${regions === 1 ? 'is' : 'are'} registered`;
    super('ERR_PAGEFAULT_OUT_OF_REGION', `address 0x${address.toString(16)} is outside any region; ${known}`);
    this.address = address;
  }
}
