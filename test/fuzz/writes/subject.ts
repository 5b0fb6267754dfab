/** One segment of a case, its store and its model: how it is opened and closed, and what must be true of it at any time. */

import { closeSync, openSync, readSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Budget, type MapOptions, map, type Pin, type Segment } from 'pagefault';
import { custom, file, memory, type StoreRef } from 'pagefault/stores';
import { PAGE_STATE } from '#dist/native/binding.js';
import { probe } from '#dist/native/load.js';
import { makeMemory, WASM_PAGE } from '../../fixtures/wasm.js';
import { backends, temporaryPath } from '../../helpers/stores.js';
import { STATE, wrongCharge, wrongCounts } from '../counts.js';
import type { Case, SegmentPlan } from './case.js';
import { BROKEN, Ledger } from './ledger.js';
import { Model } from './model.js';

export type Risk = 'never' | 'maybe' | 'surely';

const SETTLE_MS = 20_000;
const POOLED = 2 ** 22;
const storeModule = new URL('./store.js', import.meta.url);

/** Backends that can tell writes apart here. */
const able = backends.filter(
  (backend) => (backend !== 'signal' && backend !== 'thread') || probe().writeTracking !== 'none',
);

type Given = NonNullable<MapOptions['into']>;
/** Memory that is given to `into` is never freed, so it is used again. */
const pool: Record<string, Given[]> = {};

interface Held {
  pin: Pin;
  offset: number;
  first: number;
  end: number;
}

export function makeLedger(plan: SegmentPlan, seed: number): Ledger {
  const length = plan.base + plan.byteLength + plan.rest;
  // A segment begins before its store ends.
  const storeLength = plan.rest < 0 ? Math.max(plan.base + 1, length) : length;
  const { pageSize, byteLength, base } = plan;
  return Ledger.make({ pageSize, byteLength, base, storeLength }, seed % 251);
}

export class Subject {
  readonly plan: SegmentPlan;
  readonly ledger: Ledger;
  readonly model: Model;
  readonly of: Case;
  readonly path: string | undefined;
  readonly #fd: number | undefined;
  readonly #ref: StoreRef;
  readonly #budget: Budget | undefined;
  #segment: Segment | undefined;
  #given: { kind: string; memory: Given } | undefined;
  view: Uint8Array = new Uint8Array(0);
  pins: Held[] = [];
  pending: Promise<string | undefined>[] = [];
  pinCount: Uint16Array;
  peers: readonly Subject[] = [];
  mostPinned = 0;
  closing = false;
  /** Pages that are modified and open for writing: their next write asks nobody. */
  readonly opened = new Set<number>();
  /** Numbers of the store cannot be foretold any more: something was given up, or failed. */
  blurred = false;
  /** How often something was told to fail. */
  told = 0;

  constructor(plan: SegmentPlan, of: Case, index: number, budget: Budget | undefined) {
    this.plan = plan;
    this.of = of;
    this.#budget = budget;
    this.ledger = makeLedger(plan, of.seed + index);
    this.pinCount = new Uint16Array(this.ledger.pages);
    const { parts, bytes } = this.ledger;
    if (plan.kind === 'file') {
      this.path = temporaryPath();
      writeFileSync(this.path, bytes);
      this.#fd = openSync(this.path, 'r');
      this.#ref = file(this.path);
    } else if (plan.kind === 'memory') {
      this.#ref = memory(bytes);
    } else {
      const { concurrency, reads, writes, onWrite } = plan;
      this.#ref = custom(storeModule, { parts, concurrency, reads, writes, onWrite });
    }
    const memoryBytes = new Uint8Array(new SharedArrayBuffer(plan.byteLength));
    memoryBytes.set(bytes.subarray(plan.base, plan.base + this.ledger.inStore));
    this.model = new Model(this.ledger, memoryBytes, () => this.#stored());
  }

  #stored(): Uint8Array {
    if (this.#fd === undefined) return this.ledger.bytes;
    const bytes = new Uint8Array(this.ledger.parts.storeLength);
    readSync(this.#fd, bytes, 0, bytes.length, 0);
    return bytes;
  }

  get segment(): Segment {
    if (this.#segment === undefined) throw new Error('the segment is not open');
    return this.#segment;
  }

  get limit(): number | undefined {
    return this.plan.resident === 'shared' ? this.#budget?.limit : this.plan.resident;
  }

  get isCustom(): boolean {
    return this.plan.kind === 'custom';
  }

  get hasOnWrite(): boolean {
    return this.isCustom && this.plan.onWrite !== 'none';
  }

  get tracksByFaults(): boolean {
    return this.segment.backendReason.includes('is a fault');
  }

  #into(): Given | undefined {
    const { into, byteLength, pageSize } = this.plan;
    const fits = byteLength + 2 * pageSize + WASM_PAGE <= POOLED && pageSize <= WASM_PAGE;
    if (into === 'none' || !fits) return undefined;
    const kind = `${into} ${this.of.shared}`;
    const make = (): Given => {
      if (into === 'wasm') return makeMemory(POOLED / WASM_PAGE, POOLED / WASM_PAGE, this.of.shared);
      return this.of.shared ? new SharedArrayBuffer(POOLED) : new ArrayBuffer(POOLED);
    };
    const memory = pool[kind]?.pop() ?? make();
    this.#given = { kind, memory };
    return memory;
  }

  async open(): Promise<void> {
    const { plan } = this;
    const backend = able[this.of.backend % able.length] ?? 'auto';
    const options: MapOptions = {
      backend,
      writable: true,
      pageSize: plan.pageSize,
      offset: plan.base,
      byteLength: plan.byteLength,
      readahead: plan.readahead,
      pad: plan.rest < 0,
      shared: this.of.shared,
      faultTimeoutMs: 15_000,
    };
    const resident = plan.resident === 'shared' ? this.#budget : plan.resident;
    if (resident !== undefined) options.resident = resident;
    const into = this.#into();
    if (into !== undefined) options.into = into;
    this.#segment = await map(this.#ref, options);
    this.view = this.#segment.view(Uint8Array, 0, plan.byteLength);
    this.closing = false;
    this.blurred = false;
    for (const word of ['writes', 'bytesWritten', 'pagesWritten', 'ended', 'synced'] as const) this.ledger.set(word, 0);
  }

  /** Closes; rejects with what `close` rejects with. */
  async close(discard: boolean): Promise<string | undefined> {
    this.closing = true;
    try {
      await this.segment.close({ discard });
    } catch (error) {
      this.closing = false;
      throw error;
    }
    const wrong = await this.join();
    for (const { pin } of this.pins.splice(0)) pin.release();
    this.pinCount.fill(0);
    this.opened.clear();
    if (this.#given !== undefined) {
      const { kind, memory } = this.#given;
      pool[kind] = [...(pool[kind] ?? []), memory];
      this.#given = undefined;
    }
    this.#segment = undefined;
    const lost = discard ? undefined : this.model.wrongStore();
    this.model.revert(0, this.model.pages);
    return wrong ?? lost ?? this.broken();
  }

  end(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    if (this.path !== undefined) rmSync(this.path, { force: true });
  }

  async join(): Promise<string | undefined> {
    const results = await Promise.all(this.pending.splice(0));
    return results.find((wrong) => wrong !== undefined);
  }

  // --- what may fail ---------------------------------------------------------------------------------------------------------

  risk(offset: number, length: number, writes: boolean): Risk {
    if (!this.isCustom) return 'never';
    const { ledger } = this;
    const { first, end } = this.model.pagesOf(offset, length);
    const refuses = ledger.get('failOnWrites') > 0 && ledger.get('permanentOnWrites') !== 0;
    const states = this.segment.pages(first, end - first);
    let may: Risk = writes && this.hasOnWrite && refuses ? 'maybe' : 'never';
    for (let page = first; page < end; page++) {
      const failed = ((states[page - first] ?? 0) & STATE) === PAGE_STATE.failed;
      if (failed && this.pending.length === 0) return 'surely';
      if (failed || ledger.failingRead(page) < 0) may = 'maybe';
    }
    return may;
  }

  /** Codes with which a flush may fail now: a write is tried again unless it is refused for good, a sync is not. */
  get refusals(): Set<string> {
    const { ledger } = this;
    const codes = new Set<string>();
    if (ledger.get('failWrites') > 0 && ledger.get('permanentWrites') !== 0) codes.add('ERR_PAGEFAULT_STORE_WRITE');
    if (ledger.get('failSyncs') > 0) codes.add('ERR_PAGEFAULT_STORE_SYNC');
    // What eviction had written before a sync that failed is read back.
    if (this.told > 0 && this.risk(0, this.model.byteLength, false) !== 'never') codes.add('ERR_PAGEFAULT_STORE');
    return codes;
  }

  // --- what must be true ------------------------------------------------------------------------------------------------------

  broken(): string | undefined {
    const what = BROKEN[this.ledger.get('broken')];
    return what === 'none' ? undefined : `the store saw ${what}`;
  }

  presence(): Uint8Array {
    return this.segment.pages().map((byte) => byte & STATE);
  }

  /** Waits until nothing is under way in the segment. */
  async settle(): Promise<string | undefined> {
    const wrong = await this.join();
    if (wrong !== undefined) return wrong;
    const busy = new Set<number>([PAGE_STATE.loading, PAGE_STATE.installing, PAGE_STATE.evicting]);
    const deadline = Date.now() + SETTLE_MS;
    for (;;) {
      const page = this.presence().findIndex((state) => busy.has(state));
      if (page < 0 && (!this.isCustom || this.ledger.get('inFlight') === 0)) return undefined;
      if (Date.now() > deadline)
        return page < 0 ? 'a write does not end' : `page ${page} stays in state ${this.presence()[page]}`;
      await sleep(1);
    }
  }

  countPins(first: number, end: number, by: number): void {
    for (let page = first; page < end; page++) this.pinCount[page] = (this.pinCount[page] ?? 0) + by;
    this.mostPinned = Math.max(this.mostPinned, this.pinCount.filter(Boolean).length);
  }

  /** With nothing under way: what the counters must be. */
  counts(): string | undefined {
    const stats = this.segment.stats();
    const bytes = this.segment.pages();
    const wrong = wrongCounts(stats, bytes, this.plan.pageSize, this.pinCount);
    if (wrong !== undefined) return wrong;
    if (!this.isCustom || this.blurred) return undefined;
    const { storeWrites, bytesWritten, flushedPages, writeBacks } = stats;
    const asked = { storeWrites: 'writes', bytesWritten: 'bytesWritten' } as const;
    for (const [name, word] of Object.entries(asked) as [keyof typeof asked, 'writes' | 'bytesWritten'][]) {
      if (stats[name] !== this.ledger.get(word))
        return `stats().${name} is ${stats[name]}, and the store counts ${this.ledger.get(word)}`;
    }
    const written = this.ledger.get('pagesWritten');
    if (flushedPages + writeBacks !== written) {
      return `${flushedPages} flushed and ${writeBacks} written back are not the store's ${written} pages (${storeWrites} writes, ${bytesWritten} bytes)`;
    }
    return undefined;
  }

  /** At any time. */
  withinBudget(): string | undefined {
    return wrongCharge(this, this.of.threads.length);
  }
}
