/**
 * What only stores of writable segments are asked: to let a first write go through (`onWrite`), to write pages out
 * (`write`), and to make durable what was written (`sync`). Made and used in the pager's Worker only.
 */

import type { PageErrorCode } from '../errors/codes.js';
import { isThenable } from './answer.js';
import type { Buffers } from './buffers.js';
import { How } from './how.js';
import type { Place } from './lane.js';
import type { OpenedStore } from './opened-store.js';
import { Order } from './order.js';

/** A thread is stopped at its first write to a clean page. */
export class FirstWrite extends Order {
  override readonly method = 'onWrite';
  override readonly place: Place = 'demand';
  override readonly code: PageErrorCode = 'ERR_PAGEFAULT_STORE';
  readonly #offset: number;
  readonly #byteLength: number;

  constructor(slot: number, from: OpenedStore, offset: number, byteLength: number, timeoutMs: number) {
    super(slot, from, timeoutMs);
    this.#offset = offset;
    this.#byteLength = byteLength;
  }

  override prepare(): boolean {
    return true;
  }

  override call(): unknown {
    return this.from.store.onWrite?.(this.#offset, this.#byteLength);
  }

  override accept(): number {
    return 0;
  }
}

/** Pages that lie behind each other are written out. */
export class Write extends Order {
  override readonly method = 'write';
  override readonly place: Place = 'write';
  override readonly code: PageErrorCode = 'ERR_PAGEFAULT_STORE_WRITE';
  /** Resolves when the store has ended the try that is under way. */
  ended: Promise<void> = Promise.resolve();
  readonly #offset: number;
  readonly #byteLength: number;
  #bytes: Uint8Array | undefined;

  constructor(slot: number, from: OpenedStore, offset: number, byteLength: number, timeoutMs: number) {
    super(slot, from, timeoutMs);
    this.#offset = offset;
    this.#byteLength = byteLength;
  }

  /** A write of some of the same bytes, which the core has given up: it must not come after this one. */
  override obstacle(): Write | undefined {
    for (const other of this.from.writing) {
      const apart =
        other.#offset + other.#byteLength <= this.#offset || this.#offset + this.#byteLength <= other.#offset;
      if (!apart) return other;
    }
    return undefined;
  }

  /** Each try writes the bytes as they are then: a store may have changed those of the last one. */
  override prepare(buffers: Buffers): boolean {
    this.how = new How();
    this.#bytes = buffers.fetch(this.slot, Math.max(this.from.pageSize, this.#byteLength), this.#byteLength);
    return this.#bytes !== undefined;
  }

  override call(): unknown {
    const { store, writing } = this.from;
    const answer: unknown = store.write?.(this.#offset, this.#bytes as Uint8Array, this.how as How);
    if (isThenable(answer)) {
      const forget = (): void => this.forget();
      writing.add(this);
      this.ended = Promise.resolve(answer.then(forget, forget));
    }
    return answer;
  }

  override accept(): number {
    return 0;
  }

  /** It stands in nobody's way any more. */
  forget(): void {
    this.from.writing.delete(this);
  }
}

/**
 * What was written is to be durable. Asked once: a store that could not do it may have lost what it was given, as the kernel does when `fdatasync` fails, and
 * the next one that does well would say nothing of that. So everything is written again first, by the next flush.
 */
export class Sync extends Order {
  override readonly repeats: boolean = false;
  override readonly method = 'sync';
  override readonly place: Place = 'write';
  override readonly code: PageErrorCode = 'ERR_PAGEFAULT_STORE_SYNC';

  override prepare(): boolean {
    return true;
  }

  override call(): unknown {
    return this.from.store.sync?.();
  }

  override accept(): number {
    return 0;
  }
}

/** The order for one of the core's numbers: 3 a first write, 4 write out, 5 sync. */
export function orderToWrite(
  slot: number,
  from: OpenedStore,
  offset: number,
  length: number,
  access: number,
  timeoutMs: number,
): Order {
  if (access === 5) return new Sync(slot, from, timeoutMs);
  const start = from.base + offset;
  const Kind = access === 3 ? FirstWrite : Write;
  return new Kind(slot, from, start, from.clip(start, length), timeoutMs);
}
