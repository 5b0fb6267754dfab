/** Node's thread pool and paged memory: our own operations never keep it from a store that needs it; raw views in the pool may. */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { readFile } from 'node:fs/promises';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { gzip } from 'node:zlib';
import { map } from 'pagefault';
import { custom } from 'pagefault/stores';
import { openFifo } from '../helpers/descriptors.js';
import { onEachBackend, patternBytes, patternFile, temporaryPath } from '../helpers/stores.js';
import { onEachWritableBackend, PAGE } from '../helpers/writable.js';

const pooled = new URL('../fixtures/pooled.js', import.meta.url);
const PART = 40 * PAGE;
/** Threads that the pool has unless the environment says otherwise. */
const POOL = 4;

async function collect(stream: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return new Uint8Array(Buffer.concat(chunks));
}

test('this process has the pool that these tests are about', () => {
  assert.equal(process.env['UV_THREADPOOL_SIZE'] ?? `${POOL}`, `${POOL}`);
});

onEachWritableBackend('twelve operations over unpaged memory, whose store needs the pool, all end', async (backend) => {
  const path = patternFile(12 * PART);
  const segment = await map(custom(pooled, { path }), { backend, writable: true, resident: 32 * PAGE });
  const part = (i: number): Uint8Array => patternBytes(12 * PART).subarray(i * PART, (i + 1) * PART);
  const into = patternBytes(PART).reverse();
  const source = temporaryPath();
  fs.writeFileSync(source, into);
  const at = (i: number): { offset: number; byteLength: number } => ({ offset: i * PART, byteLength: PART });
  const files = [0, 1, 2, 3].map(() => fs.openSync(temporaryPath(), 'w+'));
  const sources = [4, 5, 6].map(() => fs.openSync(source, 'r'));
  const stuck = openFifo(); // nobody reads from it: what is written there waits for ever
  const abort = new AbortController();
  const waits = [0, 1, 2, 3].map(() => segment.writeTo(stuck, { signal: abort.signal }).catch((error) => error.name));
  const ends = await Promise.all([
    ...files.map((fd, i) => segment.writeTo(fd, at(i))),
    ...sources.map((fd, i) => segment.readFrom(fd, at(4 + i))),
    collect(segment.createReadStream(at(7))),
    collect(segment.createReadStream(at(8))),
    segment.load(9 * PART, PART),
    segment.load(10 * PART, PART),
    segment.pin(11 * PART, 4 * PAGE),
    readFile(source),
  ]);
  assert.deepEqual(ends.slice(0, 7), Array(7).fill(PART));
  for (const [i, fd] of files.entries())
    assert.deepEqual(new Uint8Array(fs.readFileSync(`/proc/self/fd/${fd}`)), part(i));
  assert.deepEqual(ends.slice(7, 9), [part(7), part(8)]);
  for (const i of [4, 5, 6]) assert.deepEqual(segment.read(i * PART, PART), into);
  abort.abort();
  assert.deepEqual(await Promise.all(waits), Array(4).fill('AbortError'));
  for (const fd of [...files, ...sources, stuck]) fs.closeSync(fd);
  await segment.close();
});

onEachBackend(
  'raw views in all threads of the pool keep it from their store until the deadline; a pin before does not',
  async (backend) => {
    const path = patternFile(16 * PAGE);
    const options = { backend, unreadable: 'zero', faultTimeoutMs: 400, readahead: 0 } as const;
    const segment = await map(custom(pooled, { path }), options);
    const zip = promisify(gzip);
    const views = Array.from({ length: POOL }, (_, i) => segment.view(Uint8Array, i * PAGE, PAGE));
    const gate = openFifo();
    const blocking = fs.openSync(`/proc/self/fd/${gate}`, 'r');
    const read = promisify(fs.read) as (fd: number, into: Uint8Array) => Promise<unknown>;
    const busy = views.map(() => read(blocking, new Uint8Array(1)));
    const zips = views.map((view) => zip(view));
    for (let turn = 0; turn < 10; turn++) await new Promise(setImmediate); // now all of them stand in the queue, and what the store asks for behind them
    fs.writeSync(gate, new Uint8Array(POOL));
    await Promise.all([...busy, ...zips]);
    for (const fd of [gate, blocking]) fs.closeSync(fd);
    assert.ok(segment.stats().failures > 0, 'no thread was left for the store');
    const pins = await Promise.all(views.map((_, i) => segment.pin((8 + i) * PAGE, PAGE)));
    const failures = segment.stats().failures;
    await Promise.all(pins.map((pin) => zip(pin.bytes)));
    assert.equal(segment.stats().failures, failures);
    await segment.close();
  },
);
