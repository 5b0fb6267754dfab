/** Eight threads on one segment, with far less memory than they ask for. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { map } from 'pagefault';
import type { CrowdResult, CrowdTask } from '../fixtures/crowd.js';
import { until } from '../helpers/descriptors.js';
import { knownStore, onEachBackend, type StoreKind } from '../helpers/stores.js';

const PAGE = 4096;
const THREADS = 8;
const MILLISECONDS = 1500;
const program = new URL('../fixtures/crowd.js', import.meta.url);

for (const kind of ['file', 'custom sync', 'custom async'] satisfies StoreKind[]) {
  onEachBackend(`eight Workers read right from one segment under a small budget (${kind})`, async (backend) => {
    const pages = 512;
    const budget = 32 * PAGE;
    const { ref } = knownStore(kind, pages * PAGE);
    const segment = await map(ref, { backend, resident: budget, shared: true });
    try {
      const workers = Array.from({ length: THREADS }, (_, number) => {
        const workerData: CrowdTask = { handle: segment.handle, number, milliseconds: MILLISECONDS };
        return new Worker(program, { workerData });
      });
      const looks = setInterval(() => {
        const { budgetBytes } = segment.stats();
        assert.ok(budgetBytes <= budget, `${budgetBytes} bytes are charged to a budget of ${budget}`);
      }, 20);
      const results = await Promise.all(workers.map((worker) => once(worker, 'message') as Promise<[CrowdResult]>));
      clearInterval(looks);
      for (const [{ touches, wrong }] of results) {
        assert.equal(wrong, 0);
        assert.ok(touches > 50, `a thread came to ${touches} touches only`);
      }
      const { loads, residentBytes, stagedBytes, failures } = segment.stats();
      assert.equal(failures, 0);
      assert.ok(loads > pages, `${loads} loads: nothing was evicted`);
      assert.ok(residentBytes + stagedBytes <= budget);
      // What was read ahead at last may be on its way still: its page is counted before its load is.
      await until(() => {
        const now = segment.stats();
        return now.loads + now.steals - now.evictions === now.residentBytes / PAGE;
      });
    } finally {
      await segment.close();
    }
  });
}
