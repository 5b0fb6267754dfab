/** Pins belong to the thread that made them. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { map, open, systemPageSize } from 'pagefault';
import { until } from '../helpers/descriptors.js';
import { knownStore, onEachBackend } from '../helpers/stores.js';

const PAGE = systemPageSize();
const program = new URL('../fixtures/pinning.js', import.meta.url);

for (const way of ['exit', 'terminate', 'load', 'close']) {
  onEachBackend(`what a thread has pinned is unpinned when it is gone (${way})`, async (backend) => {
    const segment = await map(knownStore('file', 64 * PAGE).ref, { backend, shared: true, resident: 16 * PAGE });
    try {
      const own = await segment.pin(3 * PAGE, 2 * PAGE);
      for (let i = 0; i < 2; i++) {
        const worker = new Worker(program, { workerData: { handle: segment.handle, way } });
        const exit = once(worker, 'exit'); // before anything is waited for: it may come at once
        await (way === 'exit' ? exit : once(worker, 'message'));
        if (way === 'terminate' || way === 'load') await worker.terminate();
        await until(() => segment.stats().pinnedPages === 2);
        if (way === 'close') await worker.terminate();
      }
      own.release();
      assert.equal(segment.stats().pinnedPages, 0);
    } finally {
      await segment.close();
    }
  });
}

onEachBackend('a segment that is open twice in a thread keeps its pins until both are closed', async (backend) => {
  const segment = await map(knownStore('file', 64 * PAGE).ref, { backend, shared: true });
  const again = await open(segment.handle);
  const pin = await again.pin(0, PAGE);
  await segment.pin(PAGE, PAGE);
  await again.close();
  pin.release();
  assert.equal(segment.stats().pinnedPages, 2);
  await segment.close();
});
