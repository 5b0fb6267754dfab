/** A child of `spawnPaged` seen from outside: what metrics, events and `pagefault top` say is what happened. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { spawnPaged } from 'pagefault/guests';
import { observedProcess, observeServer, type ServerSnapshot } from 'pagefault/observe';
import { fillStored, guestProgram } from '../helpers/guest-program.js';
import { parseMetrics, sampleOf } from '../helpers/prometheus.js';

const PAGES = 300;
const STORE = {
  byteLength: PAGES * 4096,
  read(offset: number, into: Uint8Array): number {
    fillStored(offset, into);
    return into.byteLength;
  },
};

test('the numbers of a child are those of what it did', { timeout: 60_000 }, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-observe-'));
  const events = join(folder, 'events');
  const child = await spawnPaged(guestProgram(), ['read'], { store: STORE, strategy: 'on-demand', stdio: 'ignore' });
  const guest = observedProcess(child, 'reader');
  const observation = await observeServer({ guests: [guest] }, { metricsPort: 0, events });
  try {
    assert.deepEqual(await child.exited, { state: 'exited', code: 0 });
    const base = `http://127.0.0.1:${observation.metricsPort}`;
    const samples = parseMetrics(await (await fetch(`${base}/metrics`)).text());
    const told = (name: string): number =>
      sampleOf(samples, `pagefault_guest_${name}`, { guest: 'reader', pid: String(child.pid) });
    assert.ok(told('faults_total') >= PAGES);
    assert.deepEqual([told('demand_pages_total'), told('prefetched_pages_total')], [PAGES, 0]);
    assert.equal(told('copied_bytes_total'), PAGES * 4096);
    assert.equal(told('fault_duration_seconds_count'), child.stats().serviceNs.count);
    const { p50, max } = child.stats().serviceNs;
    const blocked = told('blocked_seconds_total') * 1e9;
    assert.ok(
      blocked > (PAGES / 2) * p50 * 0.9 && blocked <= told('faults_total') * max,
      `${blocked} ns, half within ${p50}`,
    );
    const { guests } = (await (await fetch(`${base}/guests`)).json()) as ServerSnapshot;
    assert.equal(guests[0]?.numbers.demand, PAGES);
  } finally {
    await observation.close();
    await child.close();
  }
  const lines = readFileSync(events, 'utf8').trim().split('\n');
  rmSync(folder, { recursive: true });
  const last = lines
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .findLast(({ event }) => event === 'numbers');
  const numbers = last?.['numbers'] as { demand: number } | undefined;
  assert.equal(numbers?.demand, PAGES);
});
