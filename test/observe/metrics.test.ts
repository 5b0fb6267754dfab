/** Numbers of guests in Prometheus' text format. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { renderMetrics, snapshotOf } from 'pagefault/observe';
import { FakeGuest, FakeServer, NUMBERS } from '../helpers/observed.js';
import { parseMetrics, sampleOf } from '../helpers/prometheus.js';

function server(...guests: FakeGuest[]): FakeServer {
  const made = new FakeServer();
  for (const guest of guests) made.add(guest);
  return made;
}

function restoring(): FakeGuest {
  const guest = new FakeGuest(1, 'vm-a', 100);
  guest.restore = { done: 400, total: 1000 };
  return guest;
}

test('faults, block time, demand, prefetched, wasted, zero and deferred pages and the progress of the restore have a metric each', () => {
  const samples = parseMetrics(renderMetrics(snapshotOf(server(restoring()))));
  const expected: Record<string, number> = {
    faults_total: NUMBERS.faults,
    demand_pages_total: NUMBERS.demand,
    prefetched_pages_total: NUMBERS.prefetched,
    prefetch_hits_total: NUMBERS.prefetchHits,
    wasted_pages: NUMBERS.wasted,
    zero_pages_total: NUMBERS.zero,
    removed_pages_total: NUMBERS.removed,
    deferred_faults_total: NUMBERS.deferred,
    duplicate_faults_total: NUMBERS.duplicates,
    failed_pages_total: NUMBERS.failures,
    retries_total: NUMBERS.retries,
    copied_bytes_total: NUMBERS.bytesCopied,
    blocked_seconds_total: 34.5,
    pages: NUMBERS.pages,
    present_pages: NUMBERS.present,
    age_seconds: 5,
    restore_pages: 1000,
    restore_done_pages: 400,
  };
  const labels = { guest: 'vm-a', id: '1', pid: '100' };
  for (const [name, value] of Object.entries(expected)) {
    assert.equal(sampleOf(samples, `pagefault_guest_${name}`, labels), value, name);
  }
  assert.equal(sampleOf(samples, 'pagefault_guests'), 1);
});

test('the block time is told for each thread of the guest', () => {
  const samples = parseMetrics(renderMetrics(snapshotOf(server(restoring()))));
  const of = (name: string, thread: string): number => sampleOf(samples, `pagefault_guest_thread_${name}`, { thread });
  assert.deepEqual([of('blocked_seconds_total', '4711'), of('blocked_seconds_total', '4712')], [30, 4.5]);
  assert.deepEqual([of('faults_total', '4711'), of('faults_total', '4712')], [1000, 201]);
});

test('the latency is a histogram: buckets add up, and are the same ones whatever was counted', () => {
  const quiet = new FakeGuest(2, 'vm-b', 101);
  quiet.now = { faults: 0, blockedUs: 0, histogram: [] };
  const samples = parseMetrics(renderMetrics(snapshotOf(server(restoring(), quiet))));
  const name = 'pagefault_guest_fault_duration_seconds';
  const bucketsOf = (guest: string) =>
    samples.filter((sample) => sample.name === `${name}_bucket` && sample.labels['guest'] === guest);
  const a = bucketsOf('vm-a');
  assert.deepEqual(
    a.map((sample) => sample.labels['le']),
    bucketsOf('vm-b').map((sample) => sample.labels['le']),
  );
  for (const [i, { labels, value }] of a.entries()) {
    const bound = labels['le'] === '+Inf' ? Number.POSITIVE_INFINITY : Number(labels['le']);
    const below = NUMBERS.histogram.reduce((sum, count, k) => (2 ** (k + 1) / 1e9 <= bound ? sum + count : sum), 0);
    assert.equal(value, below, `le=${labels['le']}`);
    assert.ok(i === 0 || value >= (a[i - 1]?.value ?? 0));
  }
  assert.equal(a.at(-1)?.labels['le'], '+Inf');
  assert.equal(sampleOf(samples, `${name}_count`, { guest: 'vm-a' }), 1201);
  assert.equal(sampleOf(samples, `${name}_sum`, { guest: 'vm-a' }), 34.5);
});

test('what a server does not count is not told as 0', () => {
  const guest = new FakeGuest(3, 'reader', 0);
  guest.now = { faults: 3, blockedUs: 10, histogram: [] };
  const text = renderMetrics(snapshotOf(server(guest)));
  parseMetrics(text);
  assert.match(text, /pagefault_guest_faults_total\{guest="reader",id="3",pid="0"\} 3\n/);
  assert.doesNotMatch(text, /pagefault_guest_(demand|zero|thread|restore)/);
});

test('a name cannot break out of its label, and two guests of one name are two', () => {
  const name = 'a"} 1\nevil{x="\\';
  const samples = parseMetrics(renderMetrics(snapshotOf(server(new FakeGuest(1, name, 5), new FakeGuest(2, name, 5)))));
  assert.equal(sampleOf(samples, 'pagefault_guest_faults_total', { guest: name, id: '2' }), NUMBERS.faults);
});

test('a page server tells what it has sent to how many', () => {
  const stats = {
    clients: 2,
    connections: 5,
    pages: 700,
    bytes: 2_867_200,
    refused: 1,
    failures: 3,
    retries: 4,
    forwardedSignals: 0,
    handlerReinstalls: 0,
  };
  const samples = parseMetrics(renderMetrics(snapshotOf({ stats: () => stats })));
  const told = samples.map(({ name, value }) => [name.replace('pagefault_page_server_', ''), value]);
  assert.deepEqual(Object.fromEntries(told), {
    pagefault_guests: 0,
    clients: 2,
    connections_total: 5,
    pages_total: 700,
    bytes_total: 2_867_200,
    refused_total: 1,
    failed_pages_total: 3,
    retries_total: 4,
  });
});

test('without guests there are still metrics, and a guest whose numbers are gone is left out', () => {
  const gone = new FakeGuest(1, 'gone', 5);
  gone.now = undefined;
  for (const guests of [server(), server(gone)]) {
    assert.deepEqual(parseMetrics(renderMetrics(snapshotOf(guests))), [
      { name: 'pagefault_guests', labels: {}, value: 0 },
    ]);
  }
});

const without = spawnSync('promtool', ['--version']).status === 0 ? false : 'promtool of Prometheus is not installed';

test("Prometheus' own checker finds nothing wrong", { skip: without }, () => {
  const input = renderMetrics(snapshotOf(server(restoring(), new FakeGuest(2, 'vm "b"\\\n', 101))));
  const { status, stdout, stderr } = spawnSync('promtool', ['check', 'metrics'], { input, encoding: 'utf8' });
  assert.equal(status, 0, stdout + stderr);
});
