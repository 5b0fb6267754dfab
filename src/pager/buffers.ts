/** The memory of the core's slots as stores see it. Made and used in the pager's Worker only. */

import type { NativeBinding } from '../native/binding.js';
import { Refused } from './answer.js';

/** What an order of the core that is gone has: nothing more is to be done for it. */
const GONE = -1;

export class Buffers {
  readonly #native: NativeBinding;
  /** The core's id of the pager. */
  pager = 0;
  /** The last view of each slot's buffer, kept for the next order of that length. */
  readonly #views: (Uint8Array | undefined)[] = [];

  constructor(native: NativeBinding) {
    this.#native = native;
  }

  /** `length` bytes of the slot's buffer, which has at least `room`. */
  view(slot: number, room: number, length: number): Uint8Array {
    const kept = this.#views[slot];
    const fits = kept !== undefined && kept.buffer.byteLength >= room;
    if (fits && kept.length === length) return kept;
    const buffer = fits ? kept.buffer : this.#native.pagerBuffer(this.pager, slot, room);
    const view = new Uint8Array(buffer, 0, length);
    this.#views[slot] = view;
    return view;
  }

  /** The bytes that the slot's order is to write out; undefined: the order is gone. */
  fetch(slot: number, room: number, length: number): Uint8Array | undefined {
    const view = this.view(slot, room, length);
    const copied = this.#native.pagerFetch(this.pager, slot);
    if (copied === GONE) return undefined;
    if (copied < length) {
      throw new Refused(
        'ERR_PAGEFAULT_SYSTEM',
        `the core gave ${copied} of the ${length} bytes that are to be written`,
      );
    }
    return view;
  }

  /** The slot gets another buffer with its next order: a store may still be using this one. */
  retire(slot: number): void {
    this.#views[slot] = undefined;
  }
}
