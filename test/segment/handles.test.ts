/** Handles that open nothing: each is a sentence with a code, and the segment that they might have hit is untouched. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { map, open, type SegmentHandle, systemPageSize } from 'pagefault';
import { zero } from 'pagefault/stores';
import { onEachBackend } from '../helpers/stores.js';

const PAGE = systemPageSize();
const stale = 'ERR_PAGEFAULT_STALE_HANDLE';
const wrong = 'ERR_PAGEFAULT_INVALID_ARGUMENT';

function refused(handle: unknown, code: string, message: RegExp): Promise<void> {
  return assert.rejects(open(handle as SegmentHandle), { code, message });
}

onEachBackend('a handle whose number has come to another segment is stale', async (backend) => {
  const old = await map(zero(4 * PAGE), { backend, shared: true, name: 'the old one' });
  const { handle } = old;
  await old.close();
  await refused(handle, stale, /^the handle of segment "the old one" is stale: the segment has been closed$/);
  const others = [];
  for (let i = 0; i < 8; i++) others.push(await map(zero(4 * PAGE), { backend, shared: true }));
  await refused(handle, stale, /the segment has been closed/);
  await refused(structuredClone(handle), stale, /the segment has been closed/);
  for (const other of others) await other.close();
});

onEachBackend('a handle that is made up, or put together from two, opens nothing', async (backend) => {
  const one = await map(zero(4 * PAGE), { backend, shared: true, name: 'one' });
  const two = await map(zero(8 * PAGE), { backend, shared: true, name: 'two' });
  const { handle } = one;
  const another = /the handle of segment "one" is stale: its numbers are those of another segment/;
  await refused({ ...handle, segment: two.handle.segment }, stale, another);
  await refused({ ...handle, byteLength: 2 * PAGE }, stale, another);
  await refused({ ...handle, pageSize: 2 * PAGE }, stale, another);
  await refused({ ...handle, writable: true }, stale, another);
  await refused({ ...handle, address: handle.address + BigInt(PAGE) }, stale, another);
  await refused({ ...handle, buffer: two.handle.buffer }, stale, another);
  await refused({ ...handle, buffer: new SharedArrayBuffer(4 * PAGE) }, stale, another);
  for (const segment of [0, -1, 2 ** 53 - 1, handle.segment + 1, handle.segment + 2 ** 20]) {
    await refused({ ...handle, segment }, stale, /the segment has been closed|another segment/);
  }
  for (const part of [{ segment: 1.5 }, { segment: Number.NaN }, { buffer: new ArrayBuffer(4 * PAGE) }]) {
    await refused({ ...handle, ...part }, wrong, /open\(\): the handle must be the 'handle' of a shared segment/);
  }
  await assert.rejects(open({ ...handle, bufferOffset: 1 }), /another segment|must be the 'handle'/);
  const again = await open(handle); // what was refused has let go of it
  await again.close();
  await one.close();
  assert.equal(two.view(Uint8Array)[0], 0);
  await two.close();
});

test('handles of other processes, other copies and other versions are told apart', async () => {
  const segment = await map(zero(4 * PAGE), { shared: true, name: 'mine' });
  const { handle } = segment;
  const elsewhere = new RegExp(`"mine" is stale: it was mapped by process 1, and this is process ${process.pid}$`);
  await refused({ ...handle, process: 1 }, stale, elsewhere);
  await refused({ ...handle, core: 1n }, stale, /it was mapped by another copy of pagefault; import the same one/);
  await refused(
    { ...handle, pagefault: 2 },
    wrong,
    /the handle has form 2, and this version of pagefault knows form 1/,
  );
  await refused({ ...structuredClone(handle), pagefault: 0 }, wrong, /the handle has form 0/);
  const { process: _, ...older } = handle;
  await refused(older, wrong, /the handle must be the 'handle' of a shared segment/);
  await segment.close();
});

test('a handle of a Worker that has ended is stale', async () => {
  const source = `
    const { parentPort } = require('node:worker_threads');
    import('pagefault').then(async ({ map }) => {
      const { zero } = await import('pagefault/stores');
      const segment = await map(zero(65536), { shared: true, name: 'of a Worker' });
      parentPort.once('message', () => process.exit(0));
      parentPort.postMessage(segment.handle);
    });`;
  const worker = new Worker(source, { eval: true });
  const [handle] = (await once(worker, 'message')) as [SegmentHandle];
  worker.postMessage('end');
  await once(worker, 'exit');
  await refused(handle, stale, /the handle of segment "of a Worker" is stale: the segment has been closed/);
});
