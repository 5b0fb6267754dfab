/**
 * Answers the faults of stores written in JavaScript. Runs in the pager's Worker: the core calls `dispatch` for each
 * page while the thread that touched it is stopped, so the way of a synchronous answer makes as little garbage as it can.
 *
 *     dispatch ──▶ waits for a place ──▶ read ──▶ answered at once ──▶ the core
 *                        ▲                 ├──▶ a promise ──▶ settled ──▶ the core
 *                        │                 ▼
 *                        └── pause ◀── threw or rejected ──▶ deadline over, or permanent ──▶ failed
 */

import { serializeCause } from '../errors/cause.js';
import type { PageErrorCode } from '../errors/codes.js';
import { reasonOf } from '../errors/reason.js';
import type { NativeBinding } from '../native/binding.js';
import type { PageStore } from '../stores/contract.js';
import { accept, isThenable, Refused } from './answer.js';
import type { Part } from './protocol.js';
import { AHEAD, How, OpenedStore, Read } from './read.js';
import { Deadlines, isPermanent, pauseBeforeRetry } from './retry.js';

/** What `dispatch` returns when the answer comes later. */
const LATER = -2;

export class PagerServer {
  readonly #native: NativeBinding;
  readonly #stores: (OpenedStore | undefined)[] = [];
  /** The buffer of each slot as the store sees it, kept for the next read of that length. */
  readonly #views: (Uint8Array | undefined)[] = [];
  readonly #pending = new Set<Read>();
  readonly #deadlines: Deadlines<Read> = new Deadlines((read) => this.#timeOut(read));
  #pager = 0;

  constructor(native: NativeBinding) {
    this.#native = native;
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
    return this.#pager;
  }

  /** Everything that waits, and every later fault, fails with this reason. */
  stop(reason: string): void {
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
    for (const read of this.#pending) {
      if (read.from === opened) this.#fail(read, 'ERR_PAGEFAULT_CLOSED', 'the segment was closed', undefined);
    }
    const patience = performance.now() + 1000;
    while (opened.lane.inFlight > 0 && performance.now() < patience) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
    this.#stores[number] = undefined;
    await opened.store.close?.();
  }

  #dispatch(slot: number, number: number, offset: number, length: number, access: number, timeoutMs: number): number {
    const from = this.#stores[number];
    if (from === undefined || from.closed) {
      this.#native.pagerFail(this.#pager, slot, 'ERR_PAGEFAULT_CLOSED', 'the store is closed', '', false);
      return LATER;
    }
    const start = from.base + offset;
    const wanted = Math.min(length, from.end - start);
    if (wanted <= 0) throw new RangeError(`offset ${start} is past the end of the store at ${from.end}`);
    if (!from.lane.enter()) {
      from.lane.wait(this.#later(new Read(slot, from, start, wanted, access, timeoutMs)), access === AHEAD);
      return LATER;
    }
    const begun = performance.now();
    const into = this.#view(slot, from, wanted);
    const how = new How(access);
    let answer: unknown;
    try {
      answer = this.#ask(from, start, into, how);
      if (!isThenable(answer)) {
        const bytes = accept(answer, into);
        this.#leave(from);
        return bytes;
      }
    } catch (error) {
      const read = this.#later(new Read(slot, from, start, wanted, access, timeoutMs - (performance.now() - begun)));
      read.placed = true;
      this.#threw(read, error);
      return LATER;
    }
    const read = this.#later(new Read(slot, from, start, wanted, access, timeoutMs));
    read.placed = true;
    this.#await(read, how, into, answer);
    return LATER;
  }

  /** Calls the store. A page of its own Worker that it touches is an error here, where the core reports it. */
  #ask(from: OpenedStore, offset: number, into: Uint8Array, how: How): unknown {
    const { store } = from;
    if (store.byteLength !== from.byteLength) {
      throw new Refused(
        'ERR_PAGEFAULT_STORE_CHANGED',
        `the store had ${from.byteLength} bytes when it was opened and has ${store.byteLength} now`,
      );
    }
    this.#native.attemptBegin();
    let failure: ReturnType<NativeBinding['attemptEnd']> = null;
    let answer: unknown;
    try {
      answer = store.read(offset, into, how);
    } finally {
      failure = this.#native.attemptEnd();
    }
    if (failure === null) return answer;
    if (isThenable(answer)) answer.then(undefined, () => {}); // it is not looked at, but must not end the Worker
    if (failure.code === 'ERR_PAGEFAULT_DEADLOCK') throw new Refused('ERR_PAGEFAULT_DEADLOCK', failure.message);
    throw new Error(`read touched a page that cannot be had: ${failure.message}`);
  }

  /** The first or a later try of a read that has its place. */
  #try(read: Read): void {
    if (read.over) {
      this.#release(read);
      return;
    }
    const how = new How(read.access);
    const into = this.#view(read.slot, read.from, read.wanted);
    try {
      const answer = this.#ask(read.from, read.offset, into, how);
      if (isThenable(answer)) this.#await(read, how, into, answer);
      else this.#answered(read, accept(answer, into));
    } catch (error) {
      this.#threw(read, error);
    }
  }

  #await(read: Read, how: How, into: Uint8Array, answer: PromiseLike<unknown>): void {
    read.how = how;
    read.awaited = true;
    answer.then(
      (value) => {
        read.awaited = false;
        if (read.over) return this.#release(read);
        try {
          this.#answered(read, accept(value, into));
        } catch (error) {
          this.#threw(read, error);
        }
      },
      (error: unknown) => {
        read.awaited = false;
        if (read.over) return this.#release(read);
        this.#threw(read, error);
      },
    );
  }

  #answered(read: Read, bytes: number): void {
    const again = this.#native.pagerComplete(this.#pager, read.slot, bytes);
    if (again === 1) {
      setImmediate(() => this.#try(read)); // it was invalidated meanwhile
      return;
    }
    this.#end(read);
    this.#release(read);
  }

  #threw(read: Read, error: unknown): void {
    read.failed += 1;
    read.lastError = error;
    if (error instanceof Refused) {
      this.#fail(read, error.code, error.message, undefined);
    } else if ((error as { code?: unknown } | null | undefined)?.code === 'ERR_PAGEFAULT_DEADLOCK') {
      this.#fail(read, 'ERR_PAGEFAULT_DEADLOCK', reasonOf(error), error);
    } else {
      const remaining = read.deadline - performance.now();
      const pause = isPermanent(error) ? undefined : pauseBeforeRetry(read.failed, remaining, read.timeoutMs);
      if (pause === undefined) this.#fail(read, 'ERR_PAGEFAULT_STORE', `the store failed: ${reasonOf(error)}`, error);
      else setTimeout(() => this.#again(read), pause);
    }
    this.#release(read);
  }

  #again(read: Read): void {
    if (read.over) return;
    this.#native.pagerRetry(this.#pager, read.slot);
    if (read.from.lane.enter()) {
      read.placed = true;
      this.#try(read);
    } else {
      read.from.lane.wait(read, read.access === AHEAD);
    }
  }

  #timeOut(read: Read): void {
    const tries =
      read.failed === 0 ? '' : `; ${read.failed} tries failed before, the last with: ${reasonOf(read.lastError)}`;
    const sentence = `the store did not answer within ${Math.round(read.timeoutMs)} ms${tries}`;
    this.#fail(read, 'ERR_PAGEFAULT_TIMEOUT', sentence, read.lastError);
  }

  #fail(read: Read, code: PageErrorCode | 'ERR_PAGEFAULT_CLOSED', sentence: string, cause: unknown): void {
    if (read.over) return;
    const retired = read.awaited;
    if (retired) this.#views[read.slot] = undefined;
    this.#end(read);
    const json = cause === undefined ? '' : serializeCause(cause);
    this.#native.pagerFail(this.#pager, read.slot, code, sentence, json, retired);
    read.how?.abort(Object.assign(new Error(sentence), { name: 'AbortError', code }));
  }

  #later(read: Read): Read {
    this.#pending.add(read);
    this.#deadlines.add(read);
    return read;
  }

  #end(read: Read): void {
    read.over = true;
    this.#pending.delete(read);
    this.#deadlines.delete(read);
  }

  #release(read: Read): void {
    if (!read.placed) return;
    read.placed = false;
    this.#leave(read.from);
  }

  #leave(from: OpenedStore): void {
    const next = from.lane.leave();
    if (next === undefined) return;
    next.placed = true;
    // Not from here: a long queue of synchronous answers would be as deep as it is long.
    setImmediate(() => this.#try(next));
  }

  #view(slot: number, from: OpenedStore, length: number): Uint8Array {
    const kept = this.#views[slot];
    const fits = kept !== undefined && kept.buffer.byteLength >= from.pageSize;
    if (fits && kept.length === length) return kept;
    const buffer = fits ? kept.buffer : this.#native.pagerBuffer(this.#pager, slot, from.pageSize);
    const view = new Uint8Array(buffer, 0, length);
    this.#views[slot] = view;
    return view;
  }
}
