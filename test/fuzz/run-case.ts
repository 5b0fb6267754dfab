/** Runs one case in this process and compares all that it does with the truth. Throws what is wrong as an Error. */

import { closeSync, openSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Budget, type MapOptions, budget as makeBudget, map, type Pin, type Segment } from 'pagefault';
import { custom, file, memory, type StoreRef, zero } from 'pagefault/stores';
import { PAGE_STATE } from '#dist/native/binding.js';
import type { Given } from '../helpers/memories.js';
import { temporaryPath } from '../helpers/stores.js';
import { access, describe, type Fails, rangeOf, type Subject, wrongError } from './access.js';
import { type Case, changes, isCustom, type Op, type SegmentPlan } from './case.js';
import { pagesIn, STATE, wrongCharge, wrongCounts } from './counts.js';
import { lend, takeBack } from './lent.js';
import type { FuzzStoreOptions } from './store.js';
import { Threads } from './threads.js';
import { Truth, truthParts } from './truth.js';

const SETTLE_MS = 20_000;
/** Of the pages of a segment that several threads touch, those that may fail: every third. */
const RISKY = 3;
const storeModule = new URL('./store.js', import.meta.url);

interface Held {
  pin: Pin;
  first: number;
  end: number;
  /** What the pin showed at first: it must never show anything else. */
  bytes: Uint8Array;
}

interface Pending {
  promise: Promise<string | undefined>;
}

function truthOf(plan: SegmentPlan, seed: number): Truth {
  const pad = plan.rest < 0;
  const length = plan.base + plan.byteLength + plan.rest;
  // A segment begins before its store ends.
  const storeLength = pad ? Math.max(plan.base + 1, length) : length;
  const truth = new Truth(
    truthParts({
      seed: seed % 251,
      byteLength: plan.byteLength,
      pageSize: plan.pageSize,
      base: plan.base,
      storeLength,
      zero: plan.kind === 'zero',
      nulls: plan.kind === 'null',
    }),
  );
  truth.fill();
  return truth;
}

/** One segment of the case, and what must be true of it. */
class Tested implements Subject {
  readonly plan: SegmentPlan;
  readonly truth: Truth;
  readonly threads: boolean;
  readonly #case: Case;
  readonly #ref: StoreRef;
  readonly #fd: number | undefined;
  readonly #path: string | undefined;
  readonly #budget: Budget | undefined;
  #lent: Given | undefined;
  #segment: Segment | undefined;
  view = new Uint8Array(0);
  pins: Held[] = [];
  pending: Pending[] = [];
  /** Pins of each page, those under way included. */
  pinCount: Uint16Array;
  /** All segments of the case. */
  peers: readonly Tested[] = [];
  /** Pages that were ever pinned at once: what was charged beside them goes with the next load, not with the unpin. */
  mostPinned = 0;
  /** Pages that were present and dropped by something other than eviction. */
  dropped = 0;
  #readsBefore = 0;
  #closing = false;

  constructor(plan: SegmentPlan, of: Case, index: number, budget: Budget | undefined) {
    this.plan = plan;
    this.#case = of;
    this.#budget = budget;
    this.threads = of.threads.length > 0;
    this.truth = truthOf(plan, of.seed + index);
    this.pinCount = new Uint16Array(this.truth.pages);
    const { bytes, parts } = this.truth;
    if (plan.kind === 'file') {
      this.#path = temporaryPath();
      writeFileSync(this.#path, bytes);
      this.#fd = openSync(this.#path, 'r+');
      this.#ref = file(this.#path, { onChange: this.threads ? 'ignore' : 'fail' });
    } else if (plan.kind === 'memory') {
      this.#ref = memory(bytes.slice());
    } else if (plan.kind === 'shared memory') {
      this.#ref = memory(bytes);
    } else if (plan.kind === 'zero') {
      this.#ref = zero(parts.storeLength);
    } else {
      const { kind, concurrency, longestRead } = plan;
      const options: FuzzStoreOptions = { truth: parts, answer: kind, concurrency, longestRead };
      this.#ref = custom(storeModule, options);
    }
  }

  get segment(): Segment {
    if (this.#segment === undefined) throw new Error('the segment is not open');
    return this.#segment;
  }

  async open(): Promise<void> {
    const { plan, truth } = this;
    const options: MapOptions = {
      backend: this.#case.backend,
      pageSize: plan.pageSize,
      offset: plan.base,
      byteLength: plan.byteLength,
      readahead: plan.readahead,
      pad: plan.rest < 0,
      shared: this.threads,
      faultTimeoutMs: 15_000,
    };
    const resident = plan.resident === 'shared' ? this.#budget : plan.resident;
    if (resident !== undefined) options.resident = resident;
    if (plan.into !== undefined) {
      this.#lent ??= lend(plan.into, truth.pages * plan.pageSize);
      options.into = this.#lent;
    }
    this.#segment = await map(this.#ref, options);
    this.view = this.#segment.view(Uint8Array);
    this.dropped = 0;
    this.#readsBefore = truth.storeReads;
    this.#closing = false;
  }

  get limit(): number | undefined {
    return this.plan.resident === 'shared' ? this.#budget?.limit : this.plan.resident;
  }

  // --- what may fail ------------------------------------------------------------------------------------------------

  fails(offset: number, length: number): Fails {
    const { truth } = this;
    if (!isCustom(this.plan.kind)) return 'never';
    const first = truth.pageOf(offset);
    const end = truth.pageOf(offset + length - 1) + 1;
    if (this.threads) {
      for (let page = first; page < end; page++) if (page % RISKY === 0) return 'maybe';
      return 'never';
    }
    const states = this.segment.pages(first, end - first);
    let may: Fails = 'never';
    for (let page = first; page < end; page++) {
      const state = (states[page - first] ?? 0) & STATE;
      if (state === PAGE_STATE.failed && this.pending.length === 0) return 'surely';
      if (state === PAGE_STATE.failed || truth.failing(page) < 0) may = 'maybe';
    }
    return may;
  }

  get risky(): number {
    return isCustom(this.plan.kind) ? RISKY : 0;
  }

  // --- loading and pinning ----------------------------------------------------------------------------------------------

  #loadFails(offset: number, length: number): Fails {
    return this.fails(offset, length) === 'never' ? 'never' : 'maybe';
  }

  /** What is wrong with an error of `load` or `pin`. */
  #refused(error: unknown, fails: Fails, op: Op, pins: boolean): string | undefined {
    const { offset, length } = rangeOf(op, this.truth.byteLength);
    const { code } = error as { code?: string };
    if (this.#closing && (code === 'ERR_PAGEFAULT_CLOSED' || fails !== 'never')) return undefined;
    if (op.do.startsWith('begin') && error === aborted) return undefined;
    if (pins && code === 'ERR_PAGEFAULT_BUDGET' && this.limit !== undefined) return undefined;
    return wrongError(error, fails, this, offset, length);
  }

  async load(op: Op, signal?: AbortSignal): Promise<string | undefined> {
    const { offset, length } = rangeOf(op, this.truth.byteLength);
    const fails = this.#loadFails(offset, length);
    let last = 0;
    let wrong: string | undefined;
    const onProgress = (bytes: number): void => {
      if (bytes < last) wrong = `progress went from ${last} back to ${bytes}`;
      last = bytes;
    };
    try {
      await this.segment.load(offset, length, signal === undefined ? { onProgress } : { signal });
    } catch (error) {
      return this.#refused(error, fails, op, false);
    }
    return wrong;
  }

  async pin(op: Op, signal?: AbortSignal): Promise<string | undefined> {
    const { truth } = this;
    const { offset, length } = rangeOf(op, truth.byteLength);
    const fails = this.#loadFails(offset, length);
    const first = truth.pageOf(offset);
    const end = truth.pageOf(offset + length - 1) + 1;
    const oldest = truth.oldest(offset, length);
    for (let page = first; page < end; page++) this.#countPin(page, 1);
    let pin: Pin;
    try {
      pin = await this.segment.pin(offset, length, signal === undefined ? {} : { signal });
    } catch (error) {
      if (!this.#closing) for (let page = first; page < end; page++) this.#countPin(page, -1);
      return this.#refused(error, fails, op, true);
    }
    const bytes = pin.bytes.slice();
    this.pins.push({ pin, first, end, bytes });
    return truth.wrong(bytes, offset, oldest);
  }

  #countPin(page: number, by: number): void {
    const after = (this.pinCount[page] ?? 0) + by;
    this.pinCount[page] = after;
    this.mostPinned = Math.max(this.mostPinned, this.pinCount.filter(Boolean).length);
    // What was invalidated meanwhile has gone now.
    if (after === 0 && this.truth.begun(page) !== this.truth.done(page)) this.truth.end(page);
  }

  unpin(which: number): string | undefined {
    const held = this.pins.splice(which % Math.max(1, this.pins.length), 1)[0];
    if (held === undefined) return undefined;
    const { pin, first, end, bytes } = held;
    if (Buffer.compare(pin.bytes, bytes) !== 0) return `the bytes of a pin changed (pages ${first} to ${end - 1})`;
    const before = this.presence();
    pin.release();
    pin.release();
    for (let page = first; page < end; page++) {
      const stale = this.truth.begun(page) !== this.truth.done(page) || this.#marked.has(page);
      this.#countPin(page, -1);
      if (this.pinCount[page] === 0 && stale) {
        this.#marked.delete(page);
        if (before[page] === PAGE_STATE.present) this.dropped += 1;
      }
    }
    return undefined;
  }

  /** Pages that were invalidated while they were pinned. */
  readonly #marked = new Set<number>();

  /** The state of each page. */
  presence(): Uint8Array {
    return this.segment.pages().map((byte) => byte & STATE);
  }

  begin(op: Op): void {
    const abort = op.x % 3 === 0 ? new AbortController() : undefined;
    const started = op.do === 'begin pin' ? this.pin(op, abort?.signal) : this.load(op, abort?.signal);
    if (abort !== undefined) setTimeout(() => abort.abort(aborted), op.x % 7);
    this.pending.push({ promise: within(started, `${op.do} did not end`) });
  }

  async join(): Promise<string | undefined> {
    const results = await Promise.all(this.pending.splice(0).map(({ promise }) => promise));
    return results.find((wrong) => wrong !== undefined);
  }

  // --- dropping ----------------------------------------------------------------------------------------------------------

  /** Whole pages of a range. */
  #whole(offset: number, length: number): { first: number; end: number } {
    const { pageSize, byteLength, pages } = this.truth;
    const end = offset + length === byteLength ? pages : Math.floor((offset + length) / pageSize);
    return { first: Math.ceil(offset / pageSize), end };
  }

  release(op: Op): string | undefined {
    const { offset, length } = rangeOf(op, this.truth.byteLength);
    const { first, end } = this.#whole(offset, length);
    const before = this.presence();
    let present = 0;
    let staged = 0;
    for (let page = first; page < end; page++) {
      if ((this.pinCount[page] ?? 0) > 0) continue;
      present += Number(before[page] === PAGE_STATE.present);
      staged += Number(before[page] === PAGE_STATE.staged);
    }
    const freed = this.segment.release(offset, length);
    this.dropped += present;
    const expected = (present + staged) * this.plan.pageSize;
    if (this.#case.exact && freed !== expected) return `release freed ${freed} bytes, not ${expected}`;
    return undefined;
  }

  #invalidate(offset: number, length: number): void {
    const { first, end } = this.#whole(offset, length);
    const before = this.presence();
    this.segment.invalidate(offset, length);
    for (let page = first; page < end; page++) {
      if ((this.pinCount[page] ?? 0) > 0) this.#marked.add(page);
      else if (before[page] === PAGE_STATE.present) this.dropped += 1;
    }
  }

  invalidate(op: Op): undefined {
    const { offset, length } = rangeOf(op, this.truth.byteLength);
    this.#invalidate(offset, length);
    return undefined;
  }

  async change(op: Op): Promise<string | undefined> {
    const { truth, plan } = this;
    if (!changes(plan.kind)) return undefined;
    if (plan.kind === 'file' && !this.threads) {
      const wrong = await this.join(); // what is read during a change fails, and should
      if (wrong !== undefined) return wrong;
    }
    const { offset, length } = rangeOf(op, truth.byteLength);
    const first = truth.pageOf(offset);
    const most = Math.max(1, Math.min(16, Math.floor(2 ** 21 / truth.pageSize)));
    const end = Math.min(truth.pageOf(offset + length - 1) + 1, first + most);
    for (let page = first; page < end; page++) {
      truth.begin(page);
      const part = truth.write(page);
      if (this.#fd !== undefined && part.end > part.first) {
        writeSync(this.#fd, truth.bytes, part.first, part.end - part.first, part.first);
      }
    }
    const from = first * truth.pageSize;
    if (op.x % 5 === 0) this.#invalidate(0, truth.byteLength);
    else this.#invalidate(from, Math.min(end * truth.pageSize, truth.byteLength) - from);
    for (let page = first; page < end; page++) if ((this.pinCount[page] ?? 0) === 0) truth.end(page);
    return undefined;
  }

  // --- counts --------------------------------------------------------------------------------------------------------------

  /** Waits until nothing is under way in the segment. */
  async settle(): Promise<string | undefined> {
    const wrong = await this.join();
    if (wrong !== undefined) return wrong;
    const busy = new Set<number>([PAGE_STATE.loading, PAGE_STATE.installing, PAGE_STATE.evicting]);
    const deadline = Date.now() + SETTLE_MS;
    for (;;) {
      const page = this.presence().findIndex((state) => busy.has(state));
      if (page < 0) return undefined;
      if (Date.now() > deadline) return `page ${page} stays in state ${this.presence()[page]}`;
      await sleep(1);
    }
  }

  /** With nothing under way. A service thread counts what it has done when the thread that waited has gone on already. */
  async counts(): Promise<string | undefined> {
    const deadline = Date.now() + (this.segment.backend === 'thread' ? SETTLE_MS : 0);
    for (;;) {
      const wrong = this.countsNow();
      if (wrong === undefined || Date.now() >= deadline) return wrong;
      await sleep(1);
    }
  }

  /** What the counters must be. */
  countsNow(): string | undefined {
    const stats = this.segment.stats();
    const bytes = this.segment.pages();
    const wrong = wrongCounts(stats, bytes, this.plan.pageSize, this.pinCount);
    if (wrong !== undefined) return wrong;
    if (this.truth.readTwice > 0) return 'a page was asked for while it was being read';
    if (!this.#case.exact) return undefined;
    const present = pagesIn(bytes, PAGE_STATE.present);
    const { loads, steals, evictions, mappingCollapses, storeReads } = stats;
    if (mappingCollapses === 0 && loads + steals !== evictions + this.dropped + present) {
      return `${loads} loads + ${steals} steals are not ${evictions} evictions + ${this.dropped} dropped + ${present} present`;
    }
    const asked = this.truth.storeReads - this.#readsBefore;
    if (isCustom(this.plan.kind) && storeReads !== asked) {
      return `stats().storeReads is ${storeReads}, and the store was asked ${asked} times`;
    }
    return undefined;
  }

  /** At any time. */
  withinBudget(): string | undefined {
    return wrongCharge(this, this.#case.threads.length);
  }

  /** Heals all, and compares every byte. */
  async verify(): Promise<string | undefined> {
    for (let page = 0; page < this.truth.pages; page++) this.truth.setFailing(page, 0);
    const wrong = await this.settle();
    if (wrong !== undefined) return wrong;
    await this.segment.load();
    const settled = await this.settle();
    if (settled !== undefined) return settled;
    for (let at = 0; at < this.truth.byteLength; at += 2 ** 20) {
      const all: Op = { do: 'range', s: 0, at, n: 2 ** 20, x: at / 2 ** 20 };
      const found = access(this, all);
      if (found !== undefined) return `at the end: ${found}`;
    }
    return undefined;
  }

  async close(): Promise<string | undefined> {
    this.#closing = true;
    await this.segment.close();
    const wrong = await this.join();
    const stays = this.threads || this.#lent !== undefined;
    if (!stays && this.view.length !== 0) return 'the view is not detached';
    for (const { pin } of this.pins.splice(0)) pin.release();
    this.pinCount.fill(0);
    this.#marked.clear();
    for (let page = 0; page < this.truth.pages; page++) this.truth.end(page);
    this.#segment = undefined;
    return wrong;
  }

  end(): void {
    const { into, pageSize } = this.plan;
    if (this.#lent !== undefined && into !== undefined && this.#segment === undefined) {
      takeBack(this.#lent, into, this.truth.pages * pageSize);
    }
    if (this.#fd !== undefined) closeSync(this.#fd);
    if (this.#path !== undefined) rmSync(this.#path, { force: true });
  }
}

const aborted = new Error('aborted by the fuzz');

async function within<T>(promise: Promise<T>, what: string): Promise<T | string> {
  const stop = new AbortController();
  const late = sleep(30_000, what, { signal: stop.signal }).catch(() => what);
  try {
    return await Promise.race([promise, late]);
  } finally {
    stop.abort();
  }
}

async function act(tested: Tested, op: Op, exact: boolean): Promise<string | undefined> {
  const { truth } = tested;
  if (exact && /^(release|invalidate|change|unpin)$/.test(op.do)) {
    const wrong = await tested.settle();
    if (wrong !== undefined) return wrong;
  }
  switch (op.do) {
    case 'touch':
    case 'range':
    case 'read':
    case 'attempt':
      return access(tested, op);
    case 'load':
      return within(tested.load(op), 'load did not end');
    case 'pin':
      return within(tested.pin(op), 'pin did not end');
    case 'unpin':
      return tested.unpin(op.x);
    case 'release':
      return tested.release(op);
    case 'invalidate':
      return tested.invalidate(op);
    case 'change':
      return tested.change(op);
    case 'fail': {
      const page = truth.pageOf(op.at % truth.byteLength);
      if (tested.threads ? page % RISKY === 0 : tested.pending.length === 0) truth.setFailing(page, op.x);
      return undefined;
    }
    case 'heal':
      for (let page = 0; page < truth.pages; page++) truth.setFailing(page, 0);
      return undefined;
    case 'begin load':
    case 'begin pin':
      return tested.begin(op) as undefined;
    case 'join':
      return tested.join();
    case 'settle':
      if (tested.threads) return tested.join();
      return (await tested.settle()) ?? (await tested.counts());
    case 'reopen': {
      if (tested.threads) return undefined;
      const wrong = await tested.close();
      await tested.open();
      return wrong;
    }
  }
}

async function steps(tested: Tested[], of: Case): Promise<void> {
  for (const [i, op] of of.ops.entries()) {
    const subject = tested[op.s % tested.length];
    if (subject === undefined) continue;
    const wrong = (await act(subject, op, of.exact)) ?? subject.withinBudget();
    if (wrong !== undefined) throw new Error(`operation ${i} (${JSON.stringify(op)}): ${wrong}`);
  }
}

async function finish(tested: Tested[]): Promise<void> {
  for (const subject of tested) {
    const wrong =
      (await subject.verify()) ?? (await subject.settle()) ?? (await subject.counts()) ?? subject.withinBudget();
    if (wrong !== undefined) throw new Error(wrong);
  }
  for (const subject of tested) {
    while (subject.pins.length > 0) {
      const wrong = subject.unpin(0);
      if (wrong !== undefined) throw new Error(wrong);
    }
    const wrong = (await subject.settle()) ?? (await subject.counts());
    if (wrong !== undefined) throw new Error(`after the last unpin: ${wrong}`);
  }
}

/** Runs the case; throws an Error that says what is wrong. */
export async function runCase(of: Case): Promise<void> {
  const shared = of.segments.some(({ resident }) => resident === 'shared') ? makeBudget(of.budget) : undefined;
  const tested = of.segments.map((plan, i) => new Tested(plan, of, i, shared));
  for (const subject of tested) subject.peers = tested;
  const largest = Math.max(...of.segments.map(({ pageSize }) => pageSize));
  if (shared !== undefined && shared.limit < largest) throw new Error('the case has a budget below one page');
  try {
    for (const subject of tested) await subject.open();
    const threads = await Threads.run(tested, of.threads);
    await steps(tested, of);
    for (const wrong of await threads.done()) if (wrong !== undefined) throw new Error(`in a thread, ${wrong}`);
    await finish(tested);
    for (const wrong of await threads.close())
      if (wrong !== undefined) throw new Error(`closing in a thread: ${wrong}`);
    for (const subject of tested) {
      const wrong = await subject.close();
      if (wrong !== undefined) throw new Error(wrong);
    }
    // What a pager was about to do when the segment was closed may take a moment.
    for (let i = 0; i < 2000 && shared !== undefined && shared.used !== 0; i++) await sleep(10);
    if (shared !== undefined && shared.used !== 0) throw new Error(`${shared.used} bytes stay charged after closing`);
  } catch (error) {
    throw error instanceof Error ? error : new Error(describe(error));
  } finally {
    shared?.close();
    for (const subject of tested) subject.end();
  }
}
