/** The same segment in several threads: on every backend. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { map, open, type Segment, StaleHandleError, systemPageSize } from 'pagefault';
import { memory } from 'pagefault/stores';
import { native } from '#dist/native/load.js';
import { patternByte } from '../fixtures/pattern.js';
import { firstDifference, knownStore, onEachBackend, onEachStore, patternBytes } from '../helpers/stores.js';

const PAGE = systemPageSize();
const opener = new URL('../fixtures/opener.js', import.meta.url);

function opening(segment: Segment, work: object): Worker {
  return new Worker(opener, { workerData: { handle: segment.handle, from: 0, stride: 1, leave: 'close', ...work } });
}

onEachStore('several Workers touch a shared segment, and each page is read once', async (backend, kind, t) => {
  if (kind === 'zero') return t.skip('its bytes are not the pattern that the Workers expect');
  const pages = 200;
  const { ref } = knownStore(kind, pages * PAGE);
  const segment = await map(ref, { backend, shared: true, readahead: 0, name: 'shared one' });
  try {
    assert.ok(segment.buffer instanceof SharedArrayBuffer);
    assert.ok(segment.buffer.byteLength >= segment.byteLength);
    assert.equal(segment.view(Uint8Array).length, pages * PAGE);
    const workers = [opening(segment, {}), opening(segment, { from: 1 }), opening(segment, { stride: 3 })];
    const exits = workers.map((worker) => once(worker, 'exit'));
    const answers = await Promise.all(workers.map(async (worker) => (await once(worker, 'message'))[0]));
    for (const answer of answers) {
      assert.equal(answer.wrong, 0);
      assert.equal(answer.name, 'shared one');
      assert.equal(answer.length, pages * PAGE);
    }
    await Promise.all(exits);
    assert.equal(segment.stats().loads, pages);
    assert.equal(firstDifference(segment.view(Uint8Array), 0, patternByte), -1);
    assert.equal(segment.stats().loads, pages);
  } finally {
    await segment.close();
  }
});

onEachBackend('a shared segment lives until every thread has closed it, then its handle is stale', async (backend) => {
  const segment = await map(memory(patternBytes(8 * PAGE)), { backend, shared: true });
  const { handle } = segment;
  const again = await open(handle);
  assert.equal(again.address, segment.address);
  assert.equal(again.backend, backend);
  assert.equal(again.backendReason, segment.backendReason);
  await segment.close();
  assert.throws(() => segment.stats(), { code: 'ERR_PAGEFAULT_CLOSED' });
  assert.equal(again.view(Uint8Array)[3 * PAGE], patternByte(3 * PAGE));
  const third = await open(structuredClone(handle));
  await again.close();
  assert.equal(third.view(Uint8Array)[5 * PAGE], patternByte(5 * PAGE));
  await third.close();
  await assert.rejects(open(handle), StaleHandleError);
  await assert.rejects(open(handle), { code: 'ERR_PAGEFAULT_STALE_HANDLE' });
});

onEachBackend(
  'a touch of a shared segment that is closed fails with "closed", and what is loaded may be gone',
  async (backend) => {
    const segment = await map(memory(patternBytes(8 * PAGE)), { backend, shared: true });
    const witness = await map(memory(new Uint8Array(1)), { backend });
    const bytes = segment.view(Uint8Array);
    await segment.close();
    assert.throws(() => witness.attempt(() => bytes[3 * PAGE]), { code: 'ERR_PAGEFAULT_CLOSED' });
    await witness.close();
  },
);

onEachBackend('a Worker that ends without closing holds nothing any more', async (backend) => {
  const segment = await map(memory(patternBytes(8 * PAGE)), { backend, shared: true });
  const { handle } = segment;
  for (const leave of ['exit', 'stay'] as const) {
    const worker = opening(segment, { leave });
    const exit = once(worker, 'exit');
    await once(worker, 'message');
    if (leave === 'stay') await worker.terminate();
    await exit;
  }
  await segment.close();
  assert.equal(native().regionIsOpen(handle.segment), false);
  await assert.rejects(open(handle), StaleHandleError);
});

onEachBackend('plain segments have no handle, and what is no handle opens nothing', async (backend) => {
  const segment = await map(memory(new Uint8Array(PAGE)), { backend });
  assert.throws(() => segment.handle, { name: 'TypeError', message: /shared: true/ });
  await segment.close();
  for (const wrong of [undefined, null, {}, { pagefault: 1, segment: 1 }]) {
    await assert.rejects(open(wrong as never), { name: 'TypeError', message: /open\(\): the handle must be/ });
  }
});
