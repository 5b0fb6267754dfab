/** One process whose memory the engine pages: its numbers, what is brought ahead, its end. The thread that made the engine. */

import { EventEmitter } from 'node:events';
import { shown, wrongType } from '../../errors/argument.js';
import { GuestError } from '../../errors/guest-error.js';
import type { Memfd } from '../../kernel/index.js';
import { PEER_BUCKETS, PEER_NUMBERS, PEER_TIDS } from '../../native/kernel/peers.js';
import { native } from '../../native/load.js';

/** Memory of the guest, and where it begins in the snapshot. */
export interface MemoryRegion {
  readonly address: bigint;
  readonly byteLength: number;
  readonly offset: number;
}

/** Addresses where memory of the guest is now, and the number of the first page there, counted through its regions. @internal */
export interface GuestArea {
  readonly start: bigint;
  readonly end: bigint;
  readonly firstPage: number;
}

/** Since the guest was added; all but `present` only grow. */
export interface GuestNumbers {
  /** Messages that asked for a page. */
  readonly faults: number;
  /** Pages brought for them. */
  readonly demand: number;
  /** Pages brought ahead. */
  readonly prefetched: number;
  /** Of these, asked for at the same moment. That a page was used later nobody sees. */
  readonly prefetchHits: number;
  /** Of these, not known to have been asked for. */
  readonly wasted: number;
  /** Pages that were zeroes without a copy. */
  readonly zero: number;
  /** Pages that the guest gave back (a balloon, memory unplugged). */
  readonly removed: number;
  /** Faults that had to wait for an event. */
  readonly deferred: number;
  /** Faults for pages that were there. */
  readonly duplicates: number;
  readonly failures: number;
  readonly retries: number;
  readonly pages: number;
  /** Pages that are there now. */
  readonly present: number;
  readonly bytesCopied: number;
  /** Of all faults: from when a thread of ours saw it to when the page was there. */
  readonly blockedUs: number;
  /** Service times: bucket i counts those from 2^i to 2^(i+1) ns. */
  readonly histogram: readonly number[];
  /** By thread of the guest, where its userfaultfd tells threads; the last of 64 stands for all others. */
  readonly threads: readonly { readonly tid: number; readonly faults: number; readonly blockedUs: number }[];
  /** Microseconds since the guest was added. */
  readonly atUs: number;
}

export interface ReplayOptions {
  signal?: AbortSignal;
  /** Pages that were dealt with, of how many. */
  onProgress?: (done: number, total: number) => void;
}

/** What a {@link Guest} is made of. @internal */
export interface GuestIdentity {
  readonly id: number;
  readonly pid: number;
  readonly name: string;
  readonly regions: readonly MemoryRegion[];
  readonly pageSize: number;
  readonly states: Memfd;
  readonly supervised: boolean;
  /** What the core has told and nobody has heard yet is heard now. */
  readonly hear: () => void;
  readonly forget: () => void;
}

const PROGRESS_MS = 50;
/** The state of a page that was neither brought nor given up: PF_PAGE_ABSENT. */
const ABSENT = 0;
/** So many pages of a list are put in order of address: merged into longer reads, and yet in about the order in which they will be touched. */
const MERGED = 8192;

type Look = Record<(typeof PEER_NUMBERS)[number], number> & { view: Float64Array };

interface Replay {
  readonly done: () => void;
  readonly failed: (error: unknown) => void;
}

function isAscending(pages: Uint32Array): boolean {
  let last = -1;
  for (const page of pages) {
    if (page <= last) return false;
    last = page;
  }
  return true;
}

function inRuns(pages: Uint32Array): Uint32Array {
  if (isAscending(pages)) return pages; // as of a file that is restored as a whole
  const ordered = pages.slice();
  for (let at = 0; at < ordered.length; at += MERGED) ordered.subarray(at, at + MERGED).sort();
  return ordered;
}

/**
 * Events: 'pageerror' (a {@link GuestError}, and `{ offset }` in the snapshot): the process was killed, or its thread waits; 'gone': the process has ended, or has
 * another program's memory now.
 */
export class Guest extends EventEmitter {
  /** The core's number. */
  readonly id: number;
  readonly pid: number;
  readonly name: string;
  readonly regions: readonly MemoryRegion[];
  /** Bytes that come at once. */
  readonly pageSize: number;
  /** A byte of state a page, and what was read last: a supervisor keeps it, so that another pager can go on. */
  readonly states: Memfd;
  readonly #supervised: boolean;
  readonly #hear: () => void;
  readonly #forget: () => void;
  readonly #view = new Float64Array(PEER_NUMBERS.length + PEER_BUCKETS + 3 * PEER_TIDS);
  #last: GuestNumbers | undefined;
  #trace: { pages: Uint32Array; atUs: Float64Array } | undefined;
  #replay: Replay | undefined;
  #over = false;
  #closing = false;

  /** Made by {@link GuestEngine.add}. */
  constructor(parts: GuestIdentity) {
    super();
    this.id = parts.id;
    this.pid = parts.pid;
    this.name = parts.name;
    this.regions = parts.regions;
    this.pageSize = parts.pageSize;
    this.states = parts.states;
    this.#supervised = parts.supervised;
    this.#hear = parts.hear;
    this.#forget = parts.forget;
  }

  /** False once the process has ended or the guest was closed. */
  get isOver(): boolean {
    return this.#over;
  }

  #look(): Look | undefined {
    if (native().peerLook(this.id, this.#view) !== 0) return undefined;
    const view = this.#view;
    const named = Object.fromEntries(PEER_NUMBERS.map((name, i) => [name, view[i] ?? 0]));
    return { ...(named as Record<(typeof PEER_NUMBERS)[number], number>), view };
  }

  /** One consistent look; after the end, the last one. */
  numbers(): GuestNumbers {
    const look = this.#look();
    if (look === undefined) {
      if (this.#last === undefined) throw new GuestError('ERR_PAGEFAULT_GUEST_GONE', `guest "${this.name}" is closed`);
      return this.#last;
    }
    const { view, ahead, replayLeft: _left, traceCount: _count, ...numbers } = look;
    const histogram = [...view.subarray(PEER_NUMBERS.length, PEER_NUMBERS.length + PEER_BUCKETS)];
    const threads: { tid: number; faults: number; blockedUs: number }[] = [];
    for (let i = 0; i < PEER_TIDS; i++) {
      const at = PEER_NUMBERS.length + PEER_BUCKETS + 3 * i;
      const [tid = 0, faults = 0, blockedUs = 0] = view.subarray(at, at + 3);
      if (faults > 0) threads.push({ tid, faults, blockedUs });
    }
    this.#last = Object.freeze({ ...numbers, wasted: ahead, histogram, threads });
    return this.#last;
  }

  /**
   * Brings pages (their numbers in the snapshot) before they are asked for, about in this order, in long runs, and always behind what is asked for. Resolves when all
   * were dealt with: what cannot be had, or is there, is passed over. Another call takes the place of this one.
   */
  async replay(pages: Uint32Array, options: ReplayOptions = {}): Promise<void> {
    if (!(pages instanceof Uint32Array)) throw wrongType(`replay(): pages must be a Uint32Array, not ${shown(pages)}`);
    const { signal, onProgress } = options;
    signal?.throwIfAborted();
    if (this.#over) return;
    this.#replay?.done();
    const timer =
      onProgress === undefined
        ? undefined
        : setInterval(() => onProgress(this.#done(pages), pages.length), PROGRESS_MS);
    let own: Replay | undefined;
    const stop = (): void => {
      if (this.#replay !== own) return; // another call has taken its place
      native().peerReplay(this.id, new Uint32Array(0), 0);
      own?.failed(signal?.reason);
    };
    try {
      await new Promise<void>((done, failed) => {
        own = { done, failed };
        this.#replay = own;
        signal?.addEventListener('abort', stop, { once: true });
        const result = native().peerReplay(this.id, inRuns(pages), pages.length);
        if (result < 0) done(); // it has ended
      });
      onProgress?.(pages.length, pages.length);
    } finally {
      clearInterval(timer);
      signal?.removeEventListener('abort', stop);
    }
  }

  /** Of these pages of the snapshot those that nobody has brought or given up: all, but of a guest that was taken over. @internal */
  missing(pages: Uint32Array): Uint32Array {
    const { pageSize } = this;
    const counts = this.regions.map(({ byteLength }) => byteLength / pageSize);
    const states = new Uint8Array(counts.reduce((sum, count) => sum + count, 0));
    this.states.read(0, states);
    let before = 0;
    const areas = this.regions.map(({ offset }, i) => {
      const [first, count = 0] = [offset / pageSize, counts[i]];
      const states0 = before - first; // the states follow each other in the order of the regions
      before += count;
      return { first, end: first + count, states0 };
    });
    return pages.filter((page) => {
      const area = areas.find(({ first, end }) => page >= first && page < end);
      return area !== undefined && states[area.states0 + page] === ABSENT;
    });
  }

  #done(pages: Uint32Array): number {
    return pages.length - Math.min(pages.length, this.#look()?.replayLeft ?? 0);
  }

  /** Pages of the snapshot in order of first touch, and when, in µs since the guest was added. Needs `record`. What was brought ahead is not touched, as far as anybody sees. */
  trace(): { pages: Uint32Array; atUs: Float64Array } {
    const count = this.#look()?.traceCount;
    if (count === undefined) return this.#trace ?? { pages: new Uint32Array(0), atUs: new Float64Array(0) };
    const pages = new Uint32Array(count);
    const atUs = new Float64Array(count);
    const got = native().peerTrace(this.id, 0, pages, atUs, count);
    return { pages: pages.subarray(0, got), atUs: atUs.subarray(0, got) };
  }

  /** Where its memory is now: it may have moved or unmapped parts of it. `stop`: no fault is answered and no event read from then on, until it is closed. @internal */
  areas({ stop = false }: { stop?: boolean } = {}): GuestArea[] {
    for (let most = 16; ; most *= 2) {
      const out = new BigUint64Array(most * 3);
      const count = this.#over ? 0 : native().peerAreas(this.id, out, most, stop);
      if (count > most) continue;
      return Array.from({ length: Math.max(0, count) }, (_, i) => {
        const [start = 0n, end = 0n, firstPage = 0n] = out.subarray(i * 3, i * 3 + 3);
        return { start, end, firstPage: Number(firstPage) };
      });
    }
  }

  /** Pages that could not be had are tried again; with `onFailure: 'park'` threads wait for them. */
  retry(): void {
    native().peerRetry(this.id);
  }

  /**
   * Ends the process (`kill`, the default) or leaves it to whoever else holds its userfaultfd. A page that could not be had before is told first: whoever
   * sees that the process has ended, and closes the guest, is not to miss why. Idempotent.
   */
  async close({ kill = true }: { kill?: boolean } = {}): Promise<void> {
    if (!this.#closing && !this.#over) {
      this.#closing = true;
      this.#hear();
    }
    this.#end(kill);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  /** @internal */
  replayed(): void {
    if (!this.#over && (this.#look()?.replayLeft ?? 0) > 0) return; // of a list that another one has taken the place of
    const replay = this.#replay;
    this.#replay = undefined;
    replay?.done();
  }

  /** The process has ended. @internal */
  gone(): void {
    if (this.#end(true)) this.emit('gone');
  }

  /** The engine is closed, or this process ends. @internal */
  left(): void {
    if (this.#end(!this.#supervised)) this.emit('gone');
  }

  #end(kill: boolean): boolean {
    if (this.#over) return false;
    this.numbers();
    this.#trace = this.trace();
    this.#over = true;
    native().peerRemove(this.id, kill);
    this.#forget();
    this.replayed();
    this.states.close();
    return true;
  }
}
