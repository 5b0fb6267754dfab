/** What happens to a process that is paged, as it happens: for transcripts, live pictures and traces. Plain data. */

import type { ChildStatus } from '../kernel/index.js';
import type { GuestMemoryKind } from './protocol.js';

/** Where something happened. */
interface OfRegion {
  readonly pid: number;
  /** Number of the region in its process, from 0. */
  readonly region: number;
}
interface OfPage extends OfRegion {
  /** Number of the page in its region, from 0. */
  readonly page: number;
}

/** Told by `onEvent` of `spawnPaged`. Making them costs about a microsecond a fault: only who listens pays. */
export type PagingEvent =
  /** The child has handed over memory. */
  | (OfRegion & {
      readonly type: 'region';
      readonly address: bigint;
      readonly byteLength: number;
      readonly pageSize: number;
      readonly memory: GuestMemoryKind;
    })
  /** A thread of the child waits. Before anything is done about it. */
  | (OfPage & {
      readonly type: 'fault';
      readonly kind: 'missing' | 'write-protect' | 'minor';
      readonly access: 'read' | 'write';
      readonly address: bigint;
      /** Id of the thread, where the kernel tells. */
      readonly thread: number | undefined;
    })
  /** The page is there, and the thread that waits for it is still asleep. `ahead`: nobody has asked for it yet. */
  | (OfPage & { readonly type: 'copied'; readonly byteLength: number; readonly ahead: boolean })
  /** The page was written to for the first time since it came or was saved: its protection is gone. */
  | (OfPage & { readonly type: 'written' })
  /** The page was taken away to keep to the budget. `saved`: with bytes the store does not have, kept by the pager. */
  | (OfPage & { readonly type: 'evicted'; readonly saved: boolean })
  /** The child gave pages up itself (madvise, munmap): `count` of them from `page`. */
  | (OfPage & { readonly type: 'removed'; readonly count: number })
  /** The page cannot be had. */
  | (OfPage & { readonly type: 'failed'; readonly error: Error })
  /** The process exited, was killed, stopped or continued. */
  | { readonly type: 'status'; readonly pid: number; readonly status: ChildStatus };

export type Observe = (event: PagingEvent) => void;

/** Distributes over the union, which a plain Omit would not. */
type Without<Event, Key extends PropertyKey> = Event extends unknown ? Omit<Event, Key> : never;

/** An event of a page before the region has put its name to it. */
export type PageEvent = Without<Extract<PagingEvent, { page: number }>, 'pid' | 'region'>;
