/** What `pagefault top` says of a guest: rates since the last look, latency of the faults since then. Pure functions. */
import { quantile } from '../segment/stats.js';
import type { GuestSnapshot, ObservedNumbers, ServerSnapshot } from './observed.js';

/** What guests are sorted by: the largest first, names and pids in their order. */
export const TOP_SORTS = ['blocked', 'faults', 'latency', 'name', 'pid'] as const;
export type TopSort = (typeof TOP_SORTS)[number];

export interface TopRow {
  readonly guest: GuestSnapshot;
  readonly faultsPerSecond: number;
  /** Threads that waited, on average: 0.5 is half of the time of one. */
  readonly blocked: number;
  /** Nanoseconds; undefined: no fault since the last look. */
  readonly p50: number | undefined;
  readonly p99: number | undefined;
}

/** All guests in order. Rates are those since `before`; without it, and of guests that were not there then, those of all of their lives. */
export function topRows(now: ServerSnapshot, before: ServerSnapshot | undefined, sort: TopSort): TopRow[] {
  const known = new Map(before?.guests.map((guest) => [guestKey(guest), guest]));
  const elapsedUs = before === undefined ? 0 : (now.at - before.at) * 1000;
  const rows = now.guests.map((guest) => rowOf(guest, known.get(guestKey(guest))?.numbers, elapsedUs));
  return rows.sort(ORDERS[sort]);
}

const ORDERS: Readonly<Record<TopSort, (a: TopRow, b: TopRow) => number>> = {
  blocked: (a, b) => b.blocked - a.blocked || byPid(a, b),
  faults: (a, b) => b.faultsPerSecond - a.faultsPerSecond || byPid(a, b),
  latency: (a, b) => (b.p99 ?? 0) - (a.p99 ?? 0) || byPid(a, b),
  name: (a, b) => (a.guest.name < b.guest.name ? -1 : Number(a.guest.name > b.guest.name)) || byPid(a, b),
  pid: (a, b) => byPid(a, b),
};

function byPid(a: TopRow, b: TopRow): number {
  return a.guest.pid - b.guest.pid || a.guest.id - b.guest.id;
}

/** What stands for a guest from one look to the next. A server that began anew may give an id again. */
export function guestKey({ id, pid }: Pick<GuestSnapshot, 'id' | 'pid'>): string {
  return `${id} ${pid}`;
}

function rowOf(guest: GuestSnapshot, before: ObservedNumbers | undefined, elapsedUs: number): TopRow {
  const { numbers } = guest;
  const since = before !== undefined && before.faults <= numbers.faults && elapsedUs > 0 ? before : undefined;
  const us = since === undefined ? (numbers.atUs ?? 0) : elapsedUs;
  const perUs = us > 0 ? 1 / us : 0;
  const histogram = numbers.histogram.map((count, i) => count - (since?.histogram[i] ?? 0));
  const any = histogram.some((count) => count > 0);
  return {
    guest,
    faultsPerSecond: (numbers.faults - (since?.faults ?? 0)) * perUs * 1e6,
    blocked: (numbers.blockedUs - (since?.blockedUs ?? 0)) * perUs,
    p50: any ? quantile(histogram, 0.5) : undefined,
    p99: any ? quantile(histogram, 0.99) : undefined,
  };
}
