/** Node.js closes, by number, what its `fs` opened in a Worker when that Worker ends: it must not close what is in use. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, fstatSync, openSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { type Backend, open, systemPageSize } from 'pagefault';
import { patternByte } from '../fixtures/pattern.js';
import { onEachBackend, patternFile } from '../helpers/stores.js';

const PAGE = systemPageSize();

function mapping(backend: Backend, path: string, shared: boolean): Worker {
  return new Worker(new URL('../fixtures/mapper.js', import.meta.url), { workerData: { path, backend, shared } });
}

onEachBackend('a Worker that mapped a file and ends closes nothing of the others', async (backend) => {
  const path = patternFile(PAGE);
  const worker = mapping(backend, path, false);
  await once(worker, 'message');
  const mine = Array.from({ length: 20 }, () => openSync(path, 'r')); // one of them has the number that the segment had
  const exit = once(worker, 'exit');
  worker.postMessage('end');
  await exit;
  for (const fd of mine) assert.ok(fstatSync(fd).isFile());
  for (const fd of mine) closeSync(fd);
});

onEachBackend('a segment outlives the Worker that mapped it', async (backend) => {
  const worker = mapping(backend, patternFile(16 * PAGE), true);
  const [handle] = await once(worker, 'message');
  const segment = await open(handle);
  const exit = once(worker, 'exit');
  worker.postMessage('end');
  await exit;
  for (let page = 1; page < 16; page++) assert.equal(segment.view(Uint8Array)[page * PAGE], patternByte(page * PAGE));
  await segment.close();
});
