import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Latencies } from 'pagefault/guests';

test('percentiles are within 1.6 % of the exact ones', () => {
  const latencies = new Latencies();
  const values: number[] = [];
  let state = 12345;
  for (let i = 0; i < 50_000; i++) {
    state = (state * 1_103_515_245 + 12_345) % 2 ** 31;
    const value = Math.round(100 * 1.0003 ** (state % 50_000));
    values.push(value);
    latencies.add(value);
  }
  values.sort((a, b) => a - b);
  const { p50, p90, p99, p999, max, count } = latencies.percentiles();
  assert.equal(count, values.length);
  assert.equal(max, values.at(-1));
  for (const [share, told] of [
    [0.5, p50],
    [0.9, p90],
    [0.99, p99],
    [0.999, p999],
  ] as const) {
    const exact = values[Math.ceil(share * values.length) - 1] ?? 0;
    assert.ok(told >= exact && told <= exact * 1.016 + 1, `${share}: ${told} for ${exact}`);
  }
});

test('small, large and odd values have a bucket', () => {
  const latencies = new Latencies();
  for (const value of [0, 1, 63, 64, 127, 128, 1e15, -5, 2.4]) latencies.add(value);
  assert.equal(latencies.percentiles().count, 9);
  assert.equal(
    latencies.powersOfTwo().reduce((sum, count) => sum + count, 0),
    9,
  );
  assert.equal(new Latencies().percentiles().p999, 0);
});

test('two histograms add up', () => {
  const a = new Latencies();
  const b = new Latencies();
  for (let i = 0; i < 10; i++) a.add(100);
  for (let i = 0; i < 10; i++) b.add(10_000);
  a.merge(b);
  const { p50, p99, max, count } = a.percentiles();
  assert.deepEqual([count, max], [20, 10_000]);
  assert.ok(p50 >= 100 && p50 < 103 && p99 >= 10_000);
});
