/** What a pager counts. Plain numbers, one set a process; the pager's thread. */

import { type HandlerCounts, handlerCounts } from './handler-counts.js';
import { Latencies, type Percentiles } from './latency.js';

export class Counters {
  /** Threads that waited for a missing page, and were not the second to. */
  faults = 0;
  /** Faults for a page that was on its way, or had just come. */
  duplicates = 0;
  /** First writes to pages that were watched for them. */
  writeFaults = 0;
  /** Pages put into the child's memory. */
  pages = 0;
  bytes = 0;
  /** Of these: before anybody asked. */
  ahead = 0;
  /** Of these: again, after an eviction. */
  reloads = 0;
  evictions = 0;
  /** Evicted pages that had been written to: their bytes are kept by the pager. */
  saves = 0;
  /** Pages the child gave up itself. */
  removed = 0;
  retries = 0;
  failures = 0;
  /** From the moment the fault could be read to the moment the page was in place. */
  readonly service: Latencies = new Latencies();

  copy(): Counters {
    const copy = new Counters();
    const { service, ...numbers } = this;
    Object.assign(copy, numbers);
    copy.service.merge(service);
    return copy;
  }
}

/** Plain numbers, taken at once. */
export interface GuestStats extends HandlerCounts {
  readonly faults: number;
  readonly duplicates: number;
  readonly writeFaults: number;
  readonly pages: number;
  readonly bytes: number;
  readonly ahead: number;
  readonly reloads: number;
  readonly evictions: number;
  readonly saves: number;
  readonly removed: number;
  readonly retries: number;
  readonly failures: number;
  /** Bytes there now. */
  readonly residentBytes: number;
  /** Bytes the pager keeps because the child wrote them and they were evicted. */
  readonly savedBytes: number;
  /** From the moment a fault could be read to the moment its page was in place. */
  readonly serviceNs: Percentiles;
}

export function readCounters(counters: Counters, residentBytes: number, savedBytes: number): GuestStats {
  const { service, ...numbers } = counters;
  return { ...numbers, residentBytes, savedBytes, serviceNs: service.percentiles(), ...handlerCounts() };
}
