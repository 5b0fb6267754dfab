/** The address ranges of a `Pager`. Plain data. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { ADDRESSES, checkAddress } from './pager-options.js';

interface AddressRange {
  readonly base: bigint;
  /** One past the last address, at most 2^64. */
  readonly end: bigint;
}

export class PagerRegions {
  readonly #ranges: AddressRange[] = [];
  #lowest: bigint | undefined;

  get count(): number {
    return this.#ranges.length;
  }

  /** The lowest base; undefined: there are no regions. */
  get lowest(): bigint | undefined {
    return this.#lowest;
  }

  /** One that would wrap around ends with the last address there is. */
  add(base: bigint, byteLength: bigint): void {
    checkAddress('registerRegion(): base', base);
    if (typeof byteLength !== 'bigint') {
      throw wrongType(`registerRegion(): byteLength must be a bigint, not ${shown(byteLength)}`);
    }
    if (byteLength <= 0n) {
      throw outOfRange(`registerRegion(): byteLength must be above 0n, not ${byteLength}n`, 'ERR_PAGEFAULT_ZERO_SIZE');
    }
    const end = base + byteLength;
    this.#ranges.push({ base, end: end > ADDRESSES ? ADDRESSES : end });
    if (this.#lowest === undefined || base < this.#lowest) this.#lowest = base;
  }

  has(address: bigint): boolean {
    return this.#ranges.some(({ base, end }) => address >= base && address < end);
  }
}
