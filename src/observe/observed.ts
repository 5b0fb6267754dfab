/**
 * What can be seen of a server of guests: plain numbers of each guest, and the one place where they are read. Everything that shows them
 * (metrics, events, `pagefault top`) begins with a `ServerSnapshot`. Any thread.
 */

import type { PageServerStats } from '../guests/page-server.js';

/** Counts since the guest came. What a server does not count, it leaves out. A `Guest` of the engine has all of it. */
export interface ObservedNumbers {
  /** Messages that asked for a page. */
  readonly faults: number;
  /** Sum over the faults, in µs: from the moment a thread of ours saw it to the moment the page was there. */
  readonly blockedUs: number;
  /** Bucket i counts the faults that were served within 2^i to 2^(i+1) ns. */
  readonly histogram: readonly number[];
  /** Pages brought because somebody asked. */
  readonly demand?: number;
  /** Pages brought ahead. */
  readonly prefetched?: number;
  /** Of these: asked for, as far as it was seen. */
  readonly prefetchHits?: number;
  /** Of these: never asked for, so far. */
  readonly wasted?: number;
  /** Pages that were zeroes, and cost no copy. */
  readonly zero?: number;
  /** Pages the guest has given back. */
  readonly removed?: number;
  /** Faults that had to wait for an event. */
  readonly deferred?: number;
  /** Faults for a page that was on its way, or there. */
  readonly duplicates?: number;
  /** Pages that could not be had. */
  readonly failures?: number;
  readonly retries?: number;
  /** Pages of the guest's memory. */
  readonly pages?: number;
  /** Of these: there now. */
  readonly present?: number;
  readonly bytesCopied?: number;
  /** Threads of the guest that have waited; one with tid 0 where the kernel does not tell them apart. */
  readonly threads?: readonly { readonly tid: number; readonly faults: number; readonly blockedUs: number }[];
  /** Age of the guest in µs. */
  readonly atUs?: number;
}

/** How far the loading of a working set is, in pages. */
export interface RestoreProgress {
  readonly done: number;
  readonly total: number;
}

/** A guest as it is seen from outside. */
export interface ObservedGuest {
  /** Of no other guest of this server. */
  readonly id: number;
  readonly name: string;
  /** 0: not known. */
  readonly pid: number;
  /** One consistent snapshot. */
  numbers(): ObservedNumbers;
  /** Undefined: nothing is being loaded ahead, or never was. */
  readonly restore?: RestoreProgress | undefined;
  /** 'pageerror' (error, { offset }), 'gone' (). */
  on?(event: string, listener: (...args: unknown[]) => void): unknown;
  off?(event: string, listener: (...args: unknown[]) => void): unknown;
}

/** Who is connected to a page server. */
export interface ObservedClient {
  /** Of no other connection of this server. */
  readonly id: number;
  readonly peer: { readonly pid: number };
}

/** Counts of a page server since it began. */
export type ObservedService = PageServerStats;

/** A server: `GuestEngine`, `serveFirecracker`, `servePages` have this shape. */
export interface ObservedServer {
  /** Guests that are there now; a page server knows none. */
  readonly guests?: Iterable<ObservedGuest>;
  /** Of a page server. */
  stats?(): ObservedService;
  /**
   * 'guest' (guest) and 'progress' (guest, pages done, pages in all); of a page server 'client' (client), 'gone' (client) and 'pageerror' (error,
   * { client, address }); of either 'refused' (error), or 'refused' (client, sentence), and 'warning' (error). Without events guests are noticed at the next look.
   */
  on?(event: string, listener: (...args: unknown[]) => void): unknown;
  off?(event: string, listener: (...args: unknown[]) => void): unknown;
}

/** A guest at one moment. Plain data, which travels as JSON. */
export interface GuestSnapshot {
  readonly id: number;
  readonly name: string;
  readonly pid: number;
  readonly numbers: ObservedNumbers;
  readonly restore?: RestoreProgress;
}

/** All guests of a server at one moment. */
export interface ServerSnapshot {
  readonly version: 1;
  /** Of the process that serves. */
  readonly pid: number;
  /** Milliseconds since 1970. */
  readonly at: number;
  readonly guests: readonly GuestSnapshot[];
  /** Of a page server. */
  readonly service?: ObservedService;
}

/** How far restores are whose guests do not tell themselves. */
export type Restores = Pick<WeakMap<ObservedGuest, RestoreProgress>, 'get'>;

/** A guest that is about to go may have no numbers any more. */
export function snapshotOfGuest(guest: ObservedGuest, restores?: Restores): GuestSnapshot | undefined {
  const { id, name, pid } = guest;
  const restore = guest.restore ?? restores?.get(guest);
  try {
    const numbers = guest.numbers();
    return restore === undefined
      ? { id, name, pid, numbers }
      : { id, name, pid, numbers, restore: { done: restore.done, total: restore.total } };
  } catch {
    return undefined;
  }
}

export function snapshotOf(server: ObservedServer, restores?: Restores): ServerSnapshot {
  const guests: GuestSnapshot[] = [];
  for (const guest of server.guests ?? []) {
    const snapshot = snapshotOfGuest(guest, restores);
    if (snapshot !== undefined) guests.push(snapshot);
  }
  const service = server.stats?.();
  const all = { version: 1, pid: process.pid, at: Date.now(), guests } as const;
  return service === undefined ? all : { ...all, service };
}
