/**
 * The latency histogram of a segment as text. The engine counts faults in buckets of powers of two: bucket i holds those
 * that took 2^i to 2^(i+1) nanoseconds, from the touch to the page being there.
 */
import type { LatencyStats } from '../segment/stats.js';
import { formatCount, formatDuration, formatQuantity } from './format.js';
import { plainTerminal, type Terminal } from './terminal.js';

const EIGHTHS = ['', '▏', '▎', '▍', '▌', '▋', '▊', '▉'] as const;
const LABEL_WIDTH = 19;
const COUNT_WIDTH = 12;

/** One line a bucket, from the first to the last that counts something; an empty array when none does. */
export function renderHistogram(buckets: ArrayLike<number>, terminal: Terminal = plainTerminal()): string[] {
  let first = -1;
  let last = -1;
  let largest = 0;
  for (let i = 0; i < buckets.length; i++) {
    const count = buckets[i] ?? 0;
    if (count === 0) continue;
    if (first < 0) first = i;
    last = i;
    largest = Math.max(largest, count);
  }
  if (first < 0) return [];

  const width = Math.max(8, terminal.columns - LABEL_WIDTH - COUNT_WIDTH - 2);
  const lines: string[] = [];
  for (let i = first; i <= last; i++) {
    const count = buckets[i] ?? 0;
    const drawn = bar(count / largest, width, terminal.unicode);
    const label = `${formatDuration(2 ** i)} - ${formatDuration(2 ** (i + 1))}`;
    lines.push(`${label.padStart(LABEL_WIDTH)} ${terminal.paint('cyan', drawn)} ${formatCount(count)}`);
  }
  return lines;
}

/** `8,192 faults: half within 3.1 µs, 99 % within 15.2 µs`. */
export function describeLatency({ buckets, p50, p99 }: LatencyStats): string {
  const total = buckets.reduce((sum, count) => sum + count, 0);
  if (total === 0) return 'no faults';
  return `${formatQuantity(total, 'fault')}: half within ${formatDuration(p50)}, 99 % within ${formatDuration(p99)}`;
}

/** Never empty for a share above 0: one fault among a million is still seen. */
function bar(share: number, width: number, unicode: boolean): string {
  if (share <= 0) return '';
  if (!unicode) return '#'.repeat(Math.max(1, Math.round(share * width)));
  const eighths = Math.max(1, Math.round(share * width * 8));
  return '█'.repeat(Math.floor(eighths / 8)) + (EIGHTHS[eighths % 8] ?? '');
}
