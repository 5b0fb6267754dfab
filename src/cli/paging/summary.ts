/** The end of a run in numbers: the last line with `--json`, one line with `--quiet`. Pure functions. */
import type { GuestStats } from '../../guests/counters.js';
import type { HandlerCounts } from '../../guests/handler-counts.js';
import { Latencies } from '../../guests/latency.js';
import { formatCount, formatDuration, formatQuantity } from '../../observe/format.js';
import type { Paged } from './paged.js';
import type { Plan } from './plan.js';

/** What is not counted for each child. */
type OfTheProcess = keyof HandlerCounts;
type Sums = Omit<GuestStats, 'pages' | 'serviceNs' | OfTheProcess>;

export interface Summary extends Sums {
  readonly type: 'summary';
  readonly pages: number;
  readonly children: number;
  /** Of each child; without children, of this process. */
  readonly threads: number;
  readonly memory: string;
  /** The last one. */
  readonly strategy: string;
  readonly pagesCopied: number;
  readonly elapsedMs: number;
  readonly serviceNs: {
    readonly p50: number;
    readonly p90: number;
    readonly p99: number;
    readonly p999: number;
    readonly max: number;
  };
  readonly error?: { readonly code: string; readonly message: string };
}

/** `elapsedMs`: from before the first was started to the end of the last. */
export function summaryOf(plan: Plan, strategy: string, all: readonly Paged[], elapsedMs: number): Summary {
  const latencies = new Latencies();
  const sums: Record<string, number> = { ...NOTHING };
  for (const { pager } of all) {
    latencies.merge(pager.latencies);
    const { serviceNs: _, forwardedSignals: _f, handlerReinstalls: _r, ...numbers } = pager.stats();
    for (const [name, value] of Object.entries(numbers)) sums[name] = (sums[name] ?? 0) + value;
  }
  const { pages: pagesCopied = 0, ...rest } = sums;
  const { count: _, ...serviceNs } = latencies.percentiles();
  return {
    type: 'summary',
    pages: plan.pages,
    children: plan.children,
    threads: Math.max(1, plan.threads),
    memory: plan.memory,
    strategy,
    pagesCopied,
    ...(rest as unknown as Sums),
    elapsedMs,
    serviceNs,
  };
}

const NOTHING: Readonly<Omit<GuestStats, 'serviceNs' | OfTheProcess>> = {
  faults: 0,
  duplicates: 0,
  writeFaults: 0,
  pages: 0,
  bytes: 0,
  ahead: 0,
  reloads: 0,
  evictions: 0,
  saves: 0,
  removed: 0,
  retries: 0,
  failures: 0,
  residentBytes: 0,
  savedBytes: 0,
};

/** `3 pages in 41 ms: 3 faults, 3 pages copied; served within 31 µs (half), 52 µs (99 %)`. */
export function sentenceOf(summary: Summary): string {
  const { children, threads, pages, faults, pagesCopied, writeFaults, evictions, serviceNs } = summary;
  const who = [
    ...(children > 1 ? [`${children} children`] : []),
    ...(threads > 1 ? [`${threads} threads${children > 0 ? ' each' : ''}`] : []),
  ];
  const counted = [
    formatQuantity(faults, 'fault'),
    `${formatQuantity(pagesCopied, 'page')} copied`,
    ...(writeFaults > 0 ? [formatQuantity(writeFaults, 'write fault')] : []),
    ...(evictions > 0 ? [formatQuantity(evictions, 'eviction')] : []),
  ];
  const times =
    faults === 0
      ? ''
      : `; half served within ${formatDuration(serviceNs.p50)}, 99 % within ${formatDuration(serviceNs.p99)}`;
  const beside = who.length === 0 ? '' : ` (${who.join(', ')})`;
  return `${formatCount(pages)} ${pages === 1 ? 'page' : 'pages'}${beside} in ${formatDuration(summary.elapsedMs * 1e6)}: ${counted.join(', ')}${times}`;
}
