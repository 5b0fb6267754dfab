/** One read: of a page, or of several that lie behind each other and that nobody waits for. Made and used in the pager's Worker only. */

import type { PageErrorCode } from '../errors/codes.js';
import { accept } from './answer.js';
import type { Buffers } from './buffers.js';
import { HowToRead } from './how.js';
import type { Place } from './lane.js';
import type { OpenedStore } from './opened-store.js';
import { type Call, Order } from './order.js';

const READ = 0;
const AHEAD = 2;
const HURRY = 6;

/** The other orders of the core are those of writable segments. */
export function isRead(access: number): boolean {
  return access <= AHEAD;
}

/** No order: somebody has come to wait for what a read brings that nobody waited for. */
export function isHurry(access: number): boolean {
  return access === HURRY;
}

/** What a read needs of the store's lane. */
export function placeOfRead(access: number): Place {
  return access === AHEAD ? 'ahead' : 'demand';
}

/** What the store is told. Only a read ahead may have more than a page, and stays one for the store when somebody has come to wait for it. */
function toldAs(access: number, wanted: number, { pageSize }: OpenedStore): number {
  return wanted > pageSize ? AHEAD : access;
}

/**
 * The first try of a read that found a place at once. One object serves all of them: most are answered before `dispatch`
 * returns, and nothing of them is left then.
 */
export class FirstTry implements Call {
  readonly method = 'read';
  declare from: OpenedStore;
  declare offset: number;
  declare into: Uint8Array;
  declare how: HowToRead;

  set(from: OpenedStore, offset: number, into: Uint8Array, access: number): void {
    this.from = from;
    this.offset = offset;
    this.into = into;
    this.how = new HowToRead(toldAs(access, into.length, from));
  }

  call(): unknown {
    return this.from.store.read(this.offset, this.into, this.how);
  }
}

/** A read that did not end within `dispatch`. */
export class Read extends Order {
  override readonly method = 'read';
  override place: Place;
  override readonly code: PageErrorCode = 'ERR_PAGEFAULT_STORE';
  declare how: HowToRead | undefined;
  readonly #offset: number;
  readonly #wanted: number;
  #access: number;
  #into: Uint8Array | undefined;

  constructor(slot: number, from: OpenedStore, offset: number, wanted: number, access: number, timeoutMs: number) {
    super(slot, from, timeoutMs);
    this.#offset = offset;
    this.#wanted = wanted;
    this.#access = access;
    this.place = placeOfRead(access);
  }

  /** Goes on where the first try was left: it has its place, and its answer is a promise. */
  adopt(first: FirstTry): void {
    this.placed = this.place;
    this.how = first.how;
    this.#into = first.into;
  }

  /** Its next place is one of what somebody waits for. */
  hurry(): void {
    this.#access = READ;
    this.place = placeOfRead(READ);
  }

  override prepare(buffers: Buffers): boolean {
    this.how = new HowToRead(toldAs(this.#access, this.#wanted, this.from));
    this.#into = buffers.view(this.slot, this.from.room(this.#wanted), this.#wanted);
    return true;
  }

  override call(): unknown {
    return this.from.store.read(this.#offset, this.#into as Uint8Array, this.how as HowToRead);
  }

  override accept(answer: unknown): number {
    return accept(answer, this.#into as Uint8Array);
  }
}
