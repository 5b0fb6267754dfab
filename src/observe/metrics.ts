/**
 * Metrics of guests in Prometheus' text format, version 0.0.4. Pure functions. Written by hand because all values are counted elsewhere, in
 * C: a metrics library would be a second set of counters, with no way to take over a histogram.
 */
import type { GuestSnapshot, ObservedNumbers, ObservedService, ServerSnapshot } from './observed.js';

/** What the text must be sent as. */
export const METRICS_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** Names of numbers that are one number. */
type Plain = Exclude<keyof ObservedNumbers, 'histogram' | 'threads'>;

interface Metric {
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly help: string;
  readonly value: (guest: GuestSnapshot) => number | undefined;
}

function metric(type: Metric['type'], from: Plain, name: string, help: string, per = 1): Metric {
  const value = ({ numbers }: GuestSnapshot): number | undefined => {
    const number = numbers[from];
    return number === undefined ? undefined : number / per;
  };
  return { name: `pagefault_guest_${name}`, type, help, value };
}

const MICROS = 1e6;
const METRICS: readonly Metric[] = [
  metric('counter', 'faults', 'faults_total', 'Messages of the kernel that asked for a page.'),
  metric('counter', 'demand', 'demand_pages_total', 'Pages brought because a thread of the guest waited.'),
  metric('counter', 'prefetched', 'prefetched_pages_total', 'Pages brought ahead.'),
  metric('counter', 'prefetchHits', 'prefetch_hits_total', 'Pages brought ahead that were asked for.'),
  metric('gauge', 'wasted', 'wasted_pages', 'Pages brought ahead that nobody has asked for.'),
  metric('counter', 'zero', 'zero_pages_total', 'Pages of zeroes, which cost no copy.'),
  metric('counter', 'removed', 'removed_pages_total', 'Pages that the guest has given back.'),
  metric('counter', 'deferred', 'deferred_faults_total', 'Faults that had to wait for an event of the memory.'),
  metric('counter', 'duplicates', 'duplicate_faults_total', 'Faults for a page that was there or on its way.'),
  metric('counter', 'failures', 'failed_pages_total', 'Pages that could not be had.'),
  metric('counter', 'retries', 'retries_total', 'Reads and copies that were tried again.'),
  metric('counter', 'bytesCopied', 'copied_bytes_total', 'Bytes put into the memory of the guest.'),
  metric('counter', 'blockedUs', 'blocked_seconds_total', 'Time that threads of the guest waited for pages.', MICROS),
  metric('gauge', 'pages', 'pages', 'Pages of the memory of the guest.'),
  metric('gauge', 'present', 'present_pages', 'Pages that are there now.'),
  metric('gauge', 'atUs', 'age_seconds', 'Time since the guest came.', MICROS),
  {
    name: 'pagefault_guest_restore_pages',
    type: 'gauge',
    help: 'Pages of the working set that is loaded ahead.',
    value: ({ restore }) => restore?.total,
  },
  {
    name: 'pagefault_guest_restore_done_pages',
    type: 'gauge',
    help: 'Pages of the working set that were dealt with so far.',
    value: ({ restore }) => restore?.done,
  },
];

const SERVICE: readonly { from: keyof ObservedService; name: string; help: string }[] = [
  { from: 'clients', name: 'clients', help: 'Clients that are connected now.' },
  { from: 'connections', name: 'connections_total', help: 'Clients that have connected.' },
  { from: 'pages', name: 'pages_total', help: 'Pages that were sent.' },
  { from: 'bytes', name: 'bytes_total', help: 'Bytes of pages that were sent.' },
  { from: 'refused', name: 'refused_total', help: 'Connections that were closed for what they asked.' },
  { from: 'failures', name: 'failed_pages_total', help: 'Pages that could not be had.' },
  { from: 'retries', name: 'retries_total', help: 'Reads that were tried again.' },
];

const LATENCY = 'pagefault_guest_fault_duration_seconds';
const THREAD_BLOCKED = 'pagefault_guest_thread_blocked_seconds_total';
const THREAD_FAULTS = 'pagefault_guest_thread_faults_total';
/** From 1 µs to 34 s, always the same ones: a series that came and went would be no series. */
const FIRST_BUCKET = 10;
const LAST_BUCKET = 35;

/** The whole document, ready to be sent. */
export function renderMetrics({ guests, service }: ServerSnapshot): string {
  const lines = [
    ...heading('pagefault_guests', 'gauge', 'Guests that are served.'),
    `pagefault_guests ${guests.length}`,
  ];
  const labelled = guests.map((guest) => ({ guest, labels: labelsOf(guest) }));
  for (const { name, type, help, value } of METRICS) {
    const samples: string[] = [];
    for (const { guest, labels } of labelled) {
      const number = value(guest);
      if (number !== undefined) samples.push(`${name}{${labels}} ${shown(number)}`);
    }
    if (samples.length > 0) lines.push(...heading(name, type, help), ...samples);
  }
  if (guests.length > 0) {
    lines.push(...heading(LATENCY, 'histogram', 'Time from a fault to its page.'));
    for (const { guest, labels } of labelled) lines.push(...latency(guest.numbers, labels));
  }
  lines.push(...threads(labelled));
  if (service !== undefined) lines.push(...services(service));
  return `${lines.join('\n')}\n`;
}

function services(service: ObservedService): string[] {
  return SERVICE.flatMap(({ from, name, help }) => {
    const full = `pagefault_page_server_${name}`;
    return [...heading(full, name.endsWith('_total') ? 'counter' : 'gauge', help), `${full} ${shown(service[from])}`];
  });
}

function heading(name: string, type: string, help: string): string[] {
  return [`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`];
}

function labelsOf({ id, name, pid }: GuestSnapshot): string {
  return `guest="${escaped(name)}",id="${id}",pid="${pid}"`;
}

function escaped(text: string): string {
  return text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}

function shown(number: number): string {
  if (number === Number.POSITIVE_INFINITY) return '+Inf';
  return number === Number.NEGATIVE_INFINITY ? '-Inf' : String(number);
}

/** Buckets add up: each counts everything below its bound, and the last everything. */
function latency({ histogram, blockedUs }: ObservedNumbers, labels: string): string[] {
  const lines: string[] = [];
  const total = histogram.reduce((sum, count) => sum + count, 0);
  let sum = 0;
  for (let exponent = 1; exponent <= LAST_BUCKET; exponent++) {
    sum += histogram[exponent - 1] ?? 0; // which ends at 2^exponent ns
    if (exponent >= FIRST_BUCKET) lines.push(`${LATENCY}_bucket{${labels},le="${2 ** exponent / 1e9}"} ${sum}`);
  }
  lines.push(`${LATENCY}_bucket{${labels},le="+Inf"} ${total}`);
  lines.push(`${LATENCY}_sum{${labels}} ${shown(blockedUs / MICROS)}`, `${LATENCY}_count{${labels}} ${total}`);
  return lines;
}

function threads(labelled: readonly { guest: GuestSnapshot; labels: string }[]): string[] {
  const blocked: string[] = [];
  const faults: string[] = [];
  for (const { guest, labels } of labelled) {
    for (const thread of guest.numbers.threads ?? []) {
      blocked.push(`${THREAD_BLOCKED}{${labels},thread="${thread.tid}"} ${shown(thread.blockedUs / MICROS)}`);
      faults.push(`${THREAD_FAULTS}{${labels},thread="${thread.tid}"} ${thread.faults}`);
    }
  }
  if (blocked.length === 0) return [];
  return [
    ...heading(THREAD_BLOCKED, 'counter', 'Time that a thread of the guest waited for pages.'),
    ...blocked,
    ...heading(THREAD_FAULTS, 'counter', 'Faults of a thread of the guest.'),
    ...faults,
  ];
}
