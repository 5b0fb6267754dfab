/**
 * Answers the faults of stores written in JavaScript, and writes out for them. Runs in the pager's Worker: the core calls
 * `dispatch` for each order, often while the thread that touched the page is stopped, so the way of a read that is
 * answered synchronously makes as little garbage as it can.
 *
 *     dispatch ──▶ waits for a place ──▶ the store ──▶ answered at once ──▶ the core
 *                        ▲                 ├──▶ a promise ──▶ settled ──▶ the core
 *                        │                 ▼
 *                        └── pause ◀── threw or rejected ──▶ deadline over, or permanent ──▶ failed
 */

import { serializeCause } from '../errors/cause.js';
import type { PageErrorCode } from '../errors/codes.js';
import { propertyOf, reasonOf } from '../errors/reason.js';
import type { NativeBinding } from '../native/binding.js';
import type { PageStore } from '../stores/contract.js';
import { accept, isThenable, Refused } from './answer.js';
import { ask } from './ask.js';
import { Buffers } from './buffers.js';
import type { Place } from './lane.js';
import { OpenedStore } from './opened-store.js';
import type { Order } from './order.js';
import type { Part } from './protocol.js';
import { FirstTry, isHurry, isRead, placeOfRead, Read } from './read.js';
import { Deadlines, isPermanent, pauseBeforeRetry } from './retry.js';
import { sayFailed, sayLate } from './sentences.js';
import { orderToWrite, type Write } from './write.js';

/** What `dispatch` returns when the answer comes later. */
const LATER = -2;
/** How long the store may take to let go of what was aborted. */
const PATIENCE_MS = 1000;
/** How often it is looked whether somebody still waits for a write: a flush may be aborted long before its deadline. */
const LOOK_MS = 20;

export class PagerServer {
  readonly #native: NativeBinding;
  readonly #stores: (OpenedStore | undefined)[] = [];
  readonly #buffers: Buffers;
  readonly #pending = new Set<Order>();
  readonly #deadlines: Deadlines<Order> = new Deadlines((order) => this.#timeOut(order));
  readonly #first = new FirstTry();
  #looking: NodeJS.Timeout | undefined;
  #pager = 0;

  constructor(native: NativeBinding) {
    this.#native = native;
    this.#buffers = new Buffers(native);
  }

  /** Makes this thread a pager and returns its id. */
  start(): number {
    this.#pager = this.#native.pagerOpen((slot, store, offset, length, access, timeoutMs) => {
      try {
        return this.#dispatch(slot, store, offset, length, access, timeoutMs);
      } catch (error) {
        this.#native.pagerFail(this.#pager, slot, 'ERR_PAGEFAULT_STORE', reasonOf(error), serializeCause(error), false);
        return LATER;
      }
    });
    this.#buffers.pager = this.#pager;
    return this.#pager;
  }

  /** Everything that waits, and every later fault, fails with this reason. */
  stop(reason: string): void {
    if (this.#pager === 0) return; // it could not be started, and the reason for that is the one to tell
    this.#native.pagerClose(this.#pager, reason);
  }

  add(store: PageStore, part: Part): OpenedStore {
    const free = this.#stores.indexOf(undefined);
    const opened = new OpenedStore(free < 0 ? this.#stores.length : free, store, part, this.#native.systemPageSize());
    this.#stores[opened.number] = opened;
    return opened;
  }

  /** Aborts what is in flight, waits up to a second for the store to let go, closes it. Rejects with the store's error. */
  async remove(number: number): Promise<void> {
    const opened = this.#stores[number];
    if (opened === undefined || opened.closed) return;
    opened.closed = true;
    opened.lane.drain();
    for (const order of this.#pending) {
      if (order.from === opened) this.#fail(order, 'ERR_PAGEFAULT_CLOSED', 'the segment was closed', undefined);
    }
    const patience = performance.now() + PATIENCE_MS;
    while (opened.lane.inFlight > 0 && performance.now() < patience) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    this.#stores[number] = undefined;
    await opened.store.close?.();
  }

  #dispatch(slot: number, number: number, offset: number, length: number, access: number, timeoutMs: number): number {
    if (isHurry(access)) return this.#hurry(slot);
    const from = this.#stores[number];
    if (from === undefined || from.closed) {
      this.#native.pagerFail(this.#pager, slot, 'ERR_PAGEFAULT_CLOSED', 'the store is closed', '', false);
      return LATER;
    }
    if (isRead(access)) return this.#read(slot, from, offset, length, access, timeoutMs);
    const order = this.#later(orderToWrite(slot, from, offset, length, access, timeoutMs));
    this.#looking ??= setInterval(() => this.#look(), LOOK_MS).unref();
    if (!this.#enter(order)) return LATER;
    const result = this.#try(order);
    if (result === undefined) return LATER;
    this.#end(order);
    this.#release(order);
    return result;
  }

  #read(slot: number, from: OpenedStore, offset: number, length: number, access: number, timeoutMs: number): number {
    const start = from.base + offset;
    const wanted = from.clip(start, length);
    const place = placeOfRead(access);
    const later = (left: number): Read => this.#later(new Read(slot, from, start, wanted, access, left));
    if (!from.lane.enter(place)) {
      from.lane.wait(later(timeoutMs), place);
      return LATER;
    }
    const begun = performance.now();
    const first = this.#first;
    let answer: unknown;
    try {
      first.set(from, start, this.#buffers.view(slot, from.room(wanted), wanted), access);
      answer = ask(this.#native, first);
      if (!isThenable(answer)) {
        const bytes = accept(answer, first.into);
        this.#leave(from, place);
        return bytes;
      }
    } catch (error) {
      const read = later(timeoutMs - (performance.now() - begun));
      read.placed = place;
      this.#threw(read, error);
      return LATER;
    }
    const read = later(timeoutMs);
    read.adopt(first);
    this.#await(read, answer);
    return LATER;
  }

  /** Somebody has come to wait for a page that is to be read ahead. If that waits for its turn, it waits among what somebody waits for now. */
  #hurry(slot: number): typeof LATER {
    for (const order of this.#pending) {
      if (order.slot !== slot || !(order instanceof Read) || order.place !== 'ahead') continue;
      const waited = order.from.lane.forget(order, order.place);
      order.hurry();
      if (waited && this.#enter(order)) setImmediate(() => this.#go(order));
    }
    return LATER;
  }

  /** A try of an order that has its place. Returns what the core is to get, or undefined where that is not known yet. */
  #try(order: Order): number | undefined {
    if (order.over) {
      this.#release(order);
      return undefined;
    }
    const obstacle = order.obstacle();
    if (obstacle !== undefined) return this.#wait(order, obstacle);
    try {
      if (!order.prepare(this.#buffers)) throw new Refused('ERR_PAGEFAULT_STORE', 'nobody waits for it any more');
      const answer = ask(this.#native, order);
      if (!isThenable(answer)) return order.accept(answer);
      this.#await(order, answer);
    } catch (error) {
      this.#threw(order, error);
    }
    return undefined;
  }

  /** Goes on with an order when the store has ended a write, which is aborted; not for ever. */
  #wait(order: Order, write: Write): undefined {
    this.#release(order);
    this.#fail(write, 'ERR_PAGEFAULT_TIMEOUT', 'a newer write of the same bytes has come', undefined);
    let waiting = true;
    const go = (): void => {
      if (!waiting) return;
      waiting = false;
      clearTimeout(timer);
      write.forget();
      if (!order.over && this.#enter(order)) this.#go(order);
    };
    const timer = setTimeout(go, Math.min(PATIENCE_MS, order.timeoutMs / 4));
    write.ended.then(go);
  }

  /** A try whose answer `dispatch` does not wait for. */
  #go(order: Order): void {
    const result = this.#try(order);
    if (result !== undefined) this.#answered(order, result);
  }

  #await(order: Order, answer: PromiseLike<unknown>): void {
    order.awaited = true;
    const threw = (error: unknown): void => {
      order.awaited = false;
      if (order.over) this.#release(order);
      else this.#threw(order, error);
    };
    try {
      answer.then((value) => {
        order.awaited = false;
        if (order.over) return this.#release(order);
        try {
          this.#answered(order, order.accept(value));
        } catch (error) {
          this.#threw(order, error);
        }
      }, threw);
    } catch (error) {
      threw(error); // it only looked like a promise
    }
  }

  #answered(order: Order, result: number): void {
    const again = this.#native.pagerComplete(this.#pager, order.slot, result);
    if (again === 1) {
      setImmediate(() => this.#go(order)); // it was invalidated meanwhile
      return;
    }
    this.#end(order);
    this.#release(order);
  }

  #threw(order: Order, error: unknown): void {
    order.failed += 1;
    order.lastError = error;
    if (error instanceof Refused) {
      this.#fail(order, error.code, error.message, undefined);
    } else if (propertyOf(error, 'code') === 'ERR_PAGEFAULT_DEADLOCK') {
      this.#fail(order, 'ERR_PAGEFAULT_DEADLOCK', reasonOf(error), error);
    } else {
      const remaining = order.deadline - performance.now();
      const repeats = order.repeats && !isPermanent(error);
      const pause = repeats ? pauseBeforeRetry(order.failed, remaining, order.timeoutMs) : undefined;
      if (pause === undefined) this.#fail(order, order.code, sayFailed(order.method, error), error);
      else setTimeout(() => this.#again(order), pause);
    }
    this.#release(order);
  }

  #again(order: Order): void {
    if (order.over) return;
    this.#native.pagerRetry(this.#pager, order.slot);
    if (this.#enter(order)) this.#go(order);
  }

  /** Writes that nobody waits for any more are aborted. */
  #look(): void {
    let writes = 0;
    for (const order of this.#pending) {
      if (order.place !== 'write') continue;
      writes += 1;
      if (!this.#native.pagerGivenUp(this.#pager, order.slot)) continue;
      this.#fail(order, order.code, 'the flush was given up', undefined);
    }
    if (writes > 0) return;
    clearInterval(this.#looking);
    this.#looking = undefined;
  }

  #timeOut(order: Order): void {
    this.#fail(order, 'ERR_PAGEFAULT_TIMEOUT', sayLate(order), order.lastError);
  }

  #fail(order: Order, code: PageErrorCode | 'ERR_PAGEFAULT_CLOSED', sentence: string, cause: unknown): void {
    if (order.over) return;
    const retired = order.awaited;
    if (retired) this.#buffers.retire(order.slot);
    this.#end(order);
    const json = cause === undefined ? '' : serializeCause(cause);
    this.#native.pagerFail(this.#pager, order.slot, code, sentence, json, retired);
    order.how?.abort(Object.assign(new Error(sentence), { name: 'AbortError', code }));
  }

  #later<Kind extends Order>(order: Kind): Kind {
    this.#pending.add(order);
    this.#deadlines.add(order);
    return order;
  }

  #end(order: Order): void {
    order.over = true;
    this.#pending.delete(order);
    this.#deadlines.delete(order);
  }

  /** True with a place in the store's lane; else the order waits for one. */
  #enter(order: Order): boolean {
    order.placed = order.from.lane.enter(order.place) ? order.place : undefined;
    if (order.placed === undefined) order.from.lane.wait(order, order.place);
    return order.placed !== undefined;
  }

  #release(order: Order): void {
    const { placed } = order;
    if (placed === undefined) return;
    order.placed = undefined;
    this.#leave(order.from, placed);
  }

  #leave(from: OpenedStore, place: Place): void {
    const next = from.lane.leave(place);
    if (next === undefined) return;
    next.placed = next.place;
    // Not from here: a long queue of synchronous answers would be as deep as it is long.
    setImmediate(() => this.#go(next));
  }
}
