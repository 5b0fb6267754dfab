/** Shared bytes that a Worker lent, and that go with it. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { open, type SegmentHandle } from 'pagefault';
import { onEachBackend, patternBytes } from '../helpers/stores.js';

const LENGTH = 2 ** 23;

onEachBackend(
  'whoever has a segment keeps its bytes when the thread that lent them closes its own and ends',
  async (backend) => {
    const worker = new Worker(new URL('../fixtures/lending-closed.js', import.meta.url), {
      workerData: { backend, byteLength: LENGTH },
    });
    const [handle] = (await once(worker, 'message')) as [SegmentHandle];
    const segment = await open(handle);
    worker.postMessage('close');
    await once(worker, 'exit');
    assert.deepEqual(segment.read(0, LENGTH), patternBytes(LENGTH));
    await segment.close();
  },
);
