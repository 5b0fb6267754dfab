/** Writable segments in several threads, and under a budget that stores do not let go of: no write is lost. On every backend. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import { map, open, type Segment } from 'pagefault';
import { file } from 'pagefault/stores';
import { native } from '#dist/native/load.js';
import { ACCESS } from '../fixtures/keeping.js';
import type { WriterWork } from '../fixtures/writer-thread.js';
import { patternBytes, patternFile } from '../helpers/stores.js';
import { onEachWritable, onEachWritableBackend, PAGE, type Written, whileOpen, writable } from '../helpers/writable.js';

const script = new URL('../fixtures/writer-thread.js', import.meta.url);

interface Writer {
  worker: Worker;
  /** What it wrote to each page. */
  written: Promise<Uint32Array>;
  exit: Promise<unknown>;
}

function writer(segment: Segment, work: Partial<WriterWork> & { word: number }): Writer {
  const workerData: WriterWork = {
    handle: segment.handle,
    stride: 1,
    rounds: 1,
    leave: 'close',
    stop: new SharedArrayBuffer(4),
    ...work,
  };
  const worker = new Worker(script, { workerData });
  const written = once(worker, 'message').then(([message]) => {
    assert.equal(message.writable, true);
    assert.equal(message.reason, segment.backendReason);
    return message.written as Uint32Array;
  });
  return { worker, written, exit: once(worker, 'exit') };
}

/** Throws unless word `word` of each page is what a writer wrote last. */
function checkWords(contents: Uint8Array, word: number, written: Uint32Array): void {
  const numbers = new Uint32Array(contents.slice().buffer);
  for (const [page, number] of written.entries()) {
    if (number > 0) assert.equal(numbers[(page * PAGE) / 4 + word], number, `page ${page}, word ${word}`);
  }
}

onEachWritable(
  'what several threads write while it is flushed and evicted is all there in the end',
  async (backend, kind) => {
    const pages = 96;
    const options = { shared: true, resident: 24 * PAGE };
    const { segment, contents } = await writable(backend, kind, pages * PAGE, options);
    const stop = new SharedArrayBuffer(4);
    const writers = [1, 2].map((word) => writer(segment, { word, rounds: 100_000, stop }));
    const until = Date.now() + 400;
    while (Date.now() < until) {
      await segment.flush();
      await sleep(1);
    }
    Atomics.store(new Int32Array(stop), 0, 1);
    const written = await Promise.all(writers.map((one) => one.written));
    await Promise.all(writers.map((one) => one.exit));
    for (const [i, numbers] of written.entries()) checkWords(segment.read(0, pages * PAGE), i + 1, numbers);
    await segment.close();
    for (const [i, numbers] of written.entries()) checkWords(contents(), i + 1, numbers);
  },
);

onEachWritableBackend('a thread that closes has flushed what it wrote, and the others go on', async (backend) => {
  const { segment, bytes, contents } = await writable(backend, 'memory', 16 * PAGE, { shared: true });
  const { written, exit } = writer(segment, { word: 1 });
  const numbers = await written;
  await exit;
  checkWords(contents(), 1, numbers);
  bytes[8] = 77;
  assert.deepEqual(segment.dirty(), [{ offset: 0, byteLength: PAGE }]);
  await segment.close();
  assert.equal(contents()[8], 77);
});

onEachWritableBackend('what was written is dropped only if the last thread that closes discards', async (backend) => {
  for (const [leave, discard, kept] of [
    ['discard', false, true],
    ['stay', true, true],
    ['discard', true, false],
  ] as const) {
    const { segment, contents } = await writable(backend, 'memory', 4 * PAGE, { shared: true });
    const before = contents();
    const { worker, written, exit } = writer(segment, { word: 1, leave });
    const numbers = await written;
    if (leave === 'discard') {
      await exit;
      assert.deepEqual(segment.dirty(), [{ offset: 0, byteLength: 4 * PAGE }]);
    }
    await segment.close({ discard });
    if (leave === 'stay') worker.postMessage('close');
    await exit;
    if (kept) checkWords(contents(), 1, numbers);
    else assert.deepEqual(contents(), before);
  }
});

for (const call of ['read', 'onWrite'] as const) {
  onEachWritableBackend(`closing while another thread is stopped in ${call} loses nothing`, async (backend) => {
    const options = { shared: true };
    const { segment, bytes, contents, control } = await writable(backend, 'custom onWrite', 8 * PAGE, options);
    bytes[PAGE + 9] = 0xc7;
    control.set(call, 'hold', 2 * PAGE);
    const { written, exit } = writer(segment, { word: 2, stride: 8 });
    while (control.get(call, 'lastOffset') !== 2 * PAGE) await sleep(2);
    assert.equal(ACCESS[control.get('read', 'access')], 'write');
    const closing = segment.close();
    await Promise.race([closing, sleep(50)]);
    control.put(call, 'go', 1);
    await closing;
    const numbers = await written;
    await exit;
    assert.equal(numbers[2], 1);
    checkWords(contents(), 2, numbers);
    assert.equal(contents()[PAGE + 9], 0xc7);
  });
}

onEachWritableBackend('closing does not wait for a thread that goes on writing', async (backend) => {
  const { segment, contents } = await writable(backend, 'memory', 64 * PAGE, { shared: true });
  const stop = new SharedArrayBuffer(4);
  const { written, exit } = writer(segment, { word: 3, rounds: 1_000_000, stop });
  while (segment.dirty().length === 0) await sleep(2);
  const start = performance.now();
  await segment.close();
  assert.ok(performance.now() - start < 20_000);
  Atomics.store(new Int32Array(stop), 0, 1);
  const numbers = await written;
  await exit;
  checkWords(contents(), 3, numbers);
});

onEachWritableBackend('a handle opens the segment as it is: writable or not', async (backend) => {
  for (const mode of [true, false]) {
    const segment = await map(file(patternFile(4 * PAGE)), { backend, writable: mode, shared: true });
    assert.equal(segment.handle.writable, mode);
    const again = await open(structuredClone(segment.handle));
    assert.equal(again.writable, mode);
    if (mode) {
      again.write(0, Uint8Array.of(9));
      assert.deepEqual(segment.dirty(), again.dirty());
      assert.equal(segment.view(Uint8Array)[0], 9);
    } else {
      assert.throws(() => again.write(0, Uint8Array.of(9)), { code: 'ERR_PAGEFAULT_READ_ONLY' });
    }
    await again.close();
    await segment.close();
  }
});

onEachWritableBackend('a thread whose shared bytes are the store flushes them when it ends', async (backend) => {
  const mapper = new Worker(new URL('../fixtures/lending.js', import.meta.url), { workerData: { backend } });
  const [{ handle, bytes }] = (await once(mapper, 'message')) as [
    { handle: Segment['handle']; bytes: SharedArrayBuffer },
  ];
  const segment = await open(handle);
  segment.view(Uint8Array)[PAGE + 3] = 0x5c;
  await mapper.terminate();
  assert.equal(new Uint8Array(bytes)[PAGE + 3], 0x5c);
  assert.throws(() => segment.dirty(), { code: 'ERR_PAGEFAULT_CLOSED' });
  await segment.close();
});

/** Modifies every page it can until a page finds no room. */
function fill({ segment, bytes }: Written, pages: number): number {
  let page = 0;
  try {
    for (; page < pages; page++) {
      segment.attempt(() => {
        bytes[page * PAGE] = 0xe1;
      });
    }
  } catch (error) {
    assert.equal((error as { code?: string }).code, 'ERR_PAGEFAULT_STORE_WRITE', String(error));
  }
  return page;
}

onEachWritableBackend(
  'a store that cannot write keeps its pages, and whoever needs the room is told',
  async (backend) => {
    const options = { resident: 16 * PAGE, faultTimeoutMs: 3000 };
    const written = await writable(backend, 'custom sync', 64 * PAGE, options);
    await whileOpen(written, async ({ segment, bytes, model, contents, control }) => {
      control.set('write', 'permanent');
      const filled = fill(written, 64);
      assert.ok(filled >= 8 && filled <= 16, `${filled} pages`);
      for (let page = 0; page < filled; page++) model[page * PAGE] = 0xe1;
      for (let page = 0; page < filled; page++) assert.equal(bytes[page * PAGE], 0xe1, `page ${page}`);
      const { residentBytes, stagedBytes, writeBacks, writeFailures } = segment.stats();
      assert.ok(residentBytes + stagedBytes <= 16 * PAGE);
      assert.equal(writeBacks, 0);
      assert.ok(writeFailures > 0);
      assert.deepEqual(contents(), patternBytes(64 * PAGE), 'nothing was written');
      control.set('write', 'well');
      const rest = await segment.load(filled * PAGE, PAGE).then(() => filled);
      assert.equal(rest, filled);
      assert.equal(fill(written, 64), 64, 'it goes on once the store does');
      for (let page = 0; page < 64; page++) model[page * PAGE] = 0xe1;
      await segment.flush();
      assert.deepEqual(contents(), model);
    });
  },
);

onEachWritable('nothing is left of writable segments that were closed', async (backend, kind) => {
  const before = native().census();
  for (let i = 0; i < 20; i++) {
    const { segment, bytes } = await writable(backend, kind, 8 * PAGE, i % 2 === 0 ? {} : { resident: 4 * PAGE });
    bytes.fill(i);
    await segment.close();
  }
  const left = (): boolean => native().census().regions > before.regions;
  for (let i = 0; i < 400 && left(); i++) await sleep(5); // a Worker may still be leaving one
  const after = native().census();
  assert.ok(!left(), JSON.stringify([before, after]));
  assert.ok(after.descriptors <= before.descriptors + 4, JSON.stringify([before, after]));
});
