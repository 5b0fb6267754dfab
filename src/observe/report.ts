/**
 * What a segment did and what is in memory now, as text: counters, latency histogram, page map. For the command line, the
 * examples and anyone who wants to look at a segment.
 */
import type { SegmentStats } from '../segment/stats.js';
import { formatBytes, formatCount, formatQuantity } from './format.js';
import { describeLatency, renderHistogram } from './histogram.js';
import { type PageSource, renderPageMap } from './page-map.js';
import { plainTerminal, type Terminal } from './terminal.js';

/** What a report needs of a segment; every `Segment` has it. */
export interface Observed extends PageSource {
  stats(): SegmentStats;
}

/** The whole report in lines. */
export function renderSegment(segment: Observed, terminal: Terminal = plainTerminal()): string[] {
  const stats = segment.stats();
  const heading = (text: string): string => terminal.paint('bold', text);
  return [
    ...renderCounters(stats).map((line) => `  ${line}`),
    '',
    heading(`Fault latency, ${describeLatency(stats.latency)}`),
    ...renderHistogram(stats.latency.buckets, terminal),
    '',
    heading('Page map'),
    ...renderPageMap(segment, terminal),
  ];
}

/** The counters that matter for these numbers, in two or three lines. */
export function renderCounters(stats: SegmentStats): string[] {
  const lines = [
    `${formatQuantity(stats.faults, 'fault')}, ${formatQuantity(stats.loads, 'page')} loaded by ` +
      `${formatQuantity(stats.storeReads, 'store read')} of ${formatBytes(stats.bytesRead)}, ${formatCount(stats.evictions)} evicted`,
  ];
  if (stats.readaheadPages > 0) {
    lines.push(
      `read ahead ${formatQuantity(stats.readaheadPages, 'page')}, of which ${formatCount(stats.readaheadHits)} were hits`,
    );
  }
  const limit = stats.budgetLimit > 0 ? ` of ${formatBytes(stats.budgetLimit)} allowed` : '';
  lines.push(`${formatBytes(stats.residentBytes + stats.stagedBytes)} in memory${limit}`);
  const troubles: ReadonlyArray<readonly [number, string]> = [
    [stats.retries, 'store read repeated'],
    [stats.failures, 'page load failed'],
    [stats.steals, 'page taken back from eviction'],
    [stats.mappingCollapses, 'time the limit on mappings was reached'],
  ];
  const told = troubles.filter(([count]) => count > 0).map(([count, what]) => `${formatCount(count)} × ${what}`);
  return told.length === 0 ? lines : [...lines, told.join(', ')];
}
