/** Guests of the engine, seen from outside while they run: what is told is what they did. */
import assert from 'node:assert/strict';
import { EventEmitter } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { type ObservedServer, observeServer } from 'pagefault/observe';
import { custom } from 'pagefault/stores';
import { GuestEngine, type GuestNumbers, Snapshot } from '#dist/guests/engine/index.js';
import { until } from '../helpers/descriptors.js';
import { memoryFile } from '../helpers/firecracker-vm.js';
import { parseMetrics, type Sample, sampleOf } from '../helpers/prometheus.js';
import { runCli } from '../helpers/run.js';
import { temporaryPath } from '../helpers/stores.js';
import { takeVm } from '../helpers/taken-vm.js';

const DEADLINE = { timeout: 60_000 };
const PAGE = 4096;
const STORED = 48;
const PAGES = 64;

type Event = Record<string, unknown> & { event: string; numbers: GuestNumbers };

/** 48 pages of bytes, then a hole of 16: zeroes that cost no copy. */
function sparseFile(): string {
  const path = memoryFile(STORED * PAGE);
  truncateSync(path, PAGES * PAGE);
  return path;
}

async function observed(server: ObservedServer) {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-observe-'));
  const path = join(folder, 'events');
  const observation = await observeServer(server, { metricsPort: 0, events: path, intervalMs: 20 });
  const port = observation.metricsPort ?? 0;
  return {
    port,
    samples: async () => parseMetrics(await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()),
    events: (): Event[] => {
      const lines = readFileSync(path, 'utf8').split('\n').filter(Boolean);
      return lines.map((line) => JSON.parse(line) as Event);
    },
    close: async () => {
      await observation.close();
      rmSync(folder, { recursive: true });
    },
  };
}

/** Every number of the guest, as metrics have it. */
function assertSame(samples: readonly Sample[], numbers: GuestNumbers): void {
  const told = (name: string): number => sampleOf(samples, `pagefault_guest_${name}`, { guest: 'vm' });
  assert.deepEqual(
    {
      faults: told('faults_total'),
      demand: told('demand_pages_total'),
      prefetched: told('prefetched_pages_total'),
      prefetchHits: told('prefetch_hits_total'),
      wasted: told('wasted_pages'),
      zero: told('zero_pages_total'),
      removed: told('removed_pages_total'),
      deferred: told('deferred_faults_total'),
      duplicates: told('duplicate_faults_total'),
      failures: told('failed_pages_total'),
      retries: told('retries_total'),
      pages: told('pages'),
      present: told('present_pages'),
      bytesCopied: told('copied_bytes_total'),
      blockedUs: Math.round(told('blocked_seconds_total') * 1e6),
      latency: told('fault_duration_seconds_count'),
    },
    {
      faults: numbers.faults,
      demand: numbers.demand,
      prefetched: numbers.prefetched,
      prefetchHits: numbers.prefetchHits,
      wasted: numbers.wasted,
      zero: numbers.zero,
      removed: numbers.removed,
      deferred: numbers.deferred,
      duplicates: numbers.duplicates,
      failures: numbers.failures,
      retries: numbers.retries,
      pages: numbers.pages,
      present: numbers.present,
      bytesCopied: numbers.bytesCopied,
      blockedUs: Math.round(numbers.blockedUs),
      latency: numbers.histogram.reduce((sum, count) => sum + count, 0),
    },
  );
}

test('metrics, events and top tell what a VM did: each page, each thread, the restore', DEADLINE, async () => {
  const engine = new GuestEngine({ threads: 1 });
  const snapshot = await Snapshot.open(sparseFile());
  const server = Object.assign(new EventEmitter(), { guests: engine.guests });
  const args = ['--regions', String(PAGES * PAGE), '--thread-id'];
  const { vm, guest, close } = await takeVm(engine, { snapshot, name: 'vm' }, args);
  Object.defineProperty(server, 'guests', { get: () => engine.guests });
  const { port, samples, events, close: closeAll } = await observed(server);
  try {
    // 10 pages by the main thread, 8 by another, 4 of zeroes, 10 ahead, 2 given back.
    for (let page = 0; page < 10; page++) assert.match((await vm.order(`touch ${page * PAGE}`)) ?? '', /^[\da-f]{16}$/);
    await vm.must(`verify ${10 * PAGE} ${8 * PAGE} 1`);
    for (let page = STORED; page < STORED + 4; page++) await vm.must(`touch ${page * PAGE}`, '0'.repeat(16));
    await guest.replay(
      Uint32Array.from({ length: 10 }, (_, i) => 20 + i),
      {
        onProgress: (done, total) => server.emit('progress', guest, done, total),
      },
    );
    await vm.must(`remove 0 ${2 * PAGE}`);
    await until(() => guest.numbers().removed === 2);

    const numbers = guest.numbers();
    const now = await samples();
    assertSame(now, numbers);
    assert.deepEqual(
      [numbers.demand, numbers.zero, numbers.prefetched, numbers.wasted, numbers.removed],
      [22, 4, 10, 10, 2],
    );
    assert.ok(numbers.faults >= 22 && numbers.bytesCopied === 28 * PAGE);
    assert.equal(sampleOf(now, 'pagefault_guest_restore_done_pages'), 10);

    const threads = now.filter(({ name }) => name === 'pagefault_guest_thread_blocked_seconds_total');
    assert.equal(threads.length, 2, 'the main thread and the other');
    const main = String(vm.pid);
    assert.ok(threads.some(({ labels }) => labels['thread'] === main));
    assert.equal(sampleOf(now, 'pagefault_guest_thread_faults_total', { thread: main }), 14);
    const blocked = threads.reduce((sum, { value }) => sum + value, 0);
    assert.ok(
      blocked > 0 && Math.abs(blocked * 1e6 - numbers.blockedUs) < 100,
      `${blocked} s, ${numbers.blockedUs} µs`,
    );

    const { stdout } = await runCli(['top', String(port)]);
    assert.match(stdout, new RegExp(`^ *${vm.pid} vm .* 22 +10 +10 +4 +\\d+ +done$`, 'm'));
    assert.match(stdout, new RegExp(`Blocked so far, by thread of vm \\(${vm.pid}\\)`));

    await close();
    await until(() => events().some(({ event }) => event === 'gone'));
    const told = events();
    const last = told.findLast(({ event }) => event === 'gone');
    assert.deepEqual([last?.['guest'], last?.['pid']], ['vm', vm.pid]);
    assert.deepEqual({ ...last?.numbers, atUs: 0 }, { ...numbers, atUs: 0 });
    assert.ok(told.some(({ event, done, total }) => event === 'restored' && done === 10 && total === 10));
    assert.equal(sampleOf(await samples(), 'pagefault_guests'), 0);
  } finally {
    await close();
    await closeAll();
    await engine.close();
    await snapshot.close();
  }
});

const BROKEN = `export default () => ({
  byteLength: ${PAGES * PAGE},
  pageSize: ${PAGE},
  read(offset, into) {
    if (offset === ${7 * PAGE}) throw Object.assign(new Error('this disk is broken'), { permanent: true });
    return into.byteLength;
  },
});`;

test('a page that cannot be had is an event, and so is the end of the guest that follows', DEADLINE, async () => {
  const engine = new GuestEngine({ threads: 1 });
  const module = `${temporaryPath()}.mjs`;
  writeFileSync(module, BROKEN);
  const snapshot = await Snapshot.open(custom(pathToFileURL(module)));
  const args = ['--regions', String(PAGES * PAGE)];
  const { vm, guest, close } = await takeVm(engine, { snapshot, name: 'vm' }, args);
  const { events, close: closeAll } = await observed(engine);
  let error: Error | undefined;
  guest.on('pageerror', (why: Error) => {
    error = why;
  });
  try {
    void vm.order(`touch ${7 * PAGE}`);
    assert.equal((await vm.ended).signal, 'SIGKILL');
    await until(() => events().some(({ event }) => event === 'gone'), 20_000);
    const told = events();
    const failed = told.find(({ event }) => event === 'pageerror');
    assert.equal(failed?.['offset'], 7 * PAGE);
    assert.match(JSON.stringify(failed?.['error']), /"code":"ERR_PAGEFAULT_/);
    assert.match(
      error?.message ?? '',
      /offset 28672 of the snapshot .* cannot be had: ERR_PAGEFAULT_STORE: .*this disk is broken/,
    );
    assert.equal((error?.cause as Error | undefined)?.message, 'this disk is broken');
    assert.ok(told.findIndex(({ event }) => event === 'gone') > told.indexOf(failed ?? ({} as Event)));
  } finally {
    await close();
    await closeAll();
    await engine.close();
    await snapshot.close();
  }
});
