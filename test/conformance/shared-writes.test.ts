/** One writable segment in several Workers: what any of them wrote any of them flushes. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import type { Segment } from 'pagefault';
import { closeStamped, onEachStamped, stamped } from '../helpers/stamped.js';
import { PAGE } from '../helpers/writable.js';

const PAGES = 64;
const SLOTS = [100, 200, 300];

function writer(segment: Segment, slot: number, flush: boolean): Promise<unknown[]> {
  const workerData = { handle: segment.handle, slot, rounds: 20, flush };
  return once(new Worker(new URL('../fixtures/shared-writer.js', import.meta.url), { workerData }), 'message');
}

function expectWritten(kept: Uint8Array): void {
  for (let page = 0; page < PAGES; page++) {
    for (const slot of SLOTS) assert.equal(kept[page * PAGE + slot], 21, `slot ${slot} of page ${page}`);
  }
}

onEachStamped('what several Workers wrote is flushed by one', async (backend, kind) => {
  const a = await stamped(backend, kind, PAGES, 1, { shared: true, resident: 24 * PAGE });
  await Promise.all(SLOTS.map((slot) => writer(a.segment, slot, false)));
  await a.segment.flush();
  expectWritten(a.kept);
  assert.deepEqual(a.segment.dirty(), []);
  await closeStamped(a);
});

onEachStamped('Workers that flush at the same time each have their own writes durable', async (backend, kind) => {
  const a = await stamped(backend, kind, PAGES, 1, { shared: true });
  const flushes = SLOTS.map((slot) => writer(a.segment, slot, true));
  const own = a.segment.flush();
  await Promise.all([...flushes, own, a.segment.flush()]);
  expectWritten(a.kept);
  assert.deepEqual(a.segment.dirty(), []);
  await closeStamped(a);
});
