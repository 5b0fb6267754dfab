/** The latency histogram as text. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { describeLatency, plainTerminal, renderHistogram } from 'pagefault/observe';

function buckets(counts: Record<number, number>): number[] {
  return Array.from({ length: 40 }, (_, i) => counts[i] ?? 0);
}

test('there is one line for each bucket from the first to the last that counts', () => {
  const lines = renderHistogram(buckets({ 11: 100, 13: 50 }), plainTerminal(80));
  assert.equal(lines.length, 3);
  assert.match(lines[0] ?? '', /2\.05 µs - 4\.1 µs █+ 100$/);
  assert.match(lines[1] ?? '', /4\.1 µs - 8\.19 µs {2}0$/);
  assert.match(lines[2] ?? '', /8\.19 µs - 16\.4 µs █+▌ 50$/);
});

test('no line is longer than the terminal is wide', () => {
  for (const columns of [40, 80, 120]) {
    for (const unicode of [true, false]) {
      const terminal = plainTerminal(columns, unicode);
      for (const line of renderHistogram(buckets({ 10: 123_456_789, 30: 1 }), terminal)) {
        assert.ok([...line].length <= columns, line);
      }
    }
  }
});

test('one fault among a million is still seen', () => {
  const lines = renderHistogram(buckets({ 11: 1_000_000, 12: 1 }), plainTerminal(80));
  assert.match(lines[1] ?? '', /▏ 1$/);
});

test('without Unicode the bars are of ASCII', () => {
  const text = renderHistogram(buckets({ 3: 5 }), plainTerminal(80, false)).join('\n');
  assert.match(text, /8 ns - 16 ns #+ 5$/);
  assert.doesNotMatch(text, /[^\x20-\x7e]/);
});

test('nothing counted is nothing drawn', () => {
  assert.deepEqual(renderHistogram(buckets({})), []);
  assert.equal(describeLatency({ buckets: buckets({}), p50: 0, p90: 0, p99: 0, max: 0 }), 'no faults');
});

test('the latency is told in a sentence', () => {
  const latency = { buckets: buckets({ 11: 9, 14: 1 }), p50: 2500, p90: 3900, p99: 20_000, max: 32_768 };
  assert.equal(describeLatency(latency), '10 faults: half within 2.5 µs, 99 % within 20 µs');
});
