/** Shared memory over parts of segments: filled once, seen by all, shadowed, taken off. On every backend and with both ways to see writes. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { Worker } from 'node:worker_threads';
import { PageError, PagefaultError, type SharedMemory, sharedMemory } from 'pagefault';
import { openFds } from '../helpers/descriptors.js';
import { closeStamped, digits, onEachStamped, type Stamped, stamped } from '../helpers/stamped.js';
import { onEachBackend } from '../helpers/stores.js';
import { PAGE } from '../helpers/writable.js';

const reads = (...all: Stamped[]): number => all.reduce((sum, { segment }) => sum + segment.stats().storeReads, 0);

onEachStamped('a page is filled once, by the segment that touches it first, and seen by all', async (backend, kind) => {
  const a = await stamped(backend, kind, 16, 1);
  const b = await stamped(backend, kind, 16, 2, { pageSize: 2 * PAGE });
  const c = await stamped(backend, 'memory', 16, 3, { writable: false });
  const memory = sharedMemory(4 * PAGE);
  a.segment.patch(PAGE, memory);
  b.segment.patch(8 * PAGE, memory);
  c.segment.patch(12 * PAGE, memory);
  assert.equal(memory.filledBytes, 0);
  assert.equal(a.bytes[2 * PAGE], 1);
  assert.equal(c.bytes[13 * PAGE], 1);
  assert.equal(memory.filledBytes, PAGE);
  assert.equal(b.bytes[8 * PAGE], 2, 'the first page is filled by b, which reads two, and leaves the second as it is');
  assert.equal(b.bytes[9 * PAGE], 1);
  assert.equal(c.bytes[14 * PAGE], 3);
  assert.equal(b.bytes[11 * PAGE], 2);
  assert.equal(digits(a), '1213211111111111');
  assert.equal(digits(b), '2222222221322222');
  assert.equal(digits(c), '3333333333332132');
  assert.equal(memory.filledBytes, 4 * PAGE);
  assert.equal(reads(a), 1 + 12);
  assert.equal(reads(b), 2 + 6);
  assert.equal(reads(c), 1 + 12);
  memory.close();
  await closeStamped(a, b);
  c.segment.release(12 * PAGE, 4 * PAGE);
  assert.equal(digits(c), '3333333333332132', 'it outlives who filled it and who made it');
  await closeStamped(c);
});

/** All of it filled by a store of this byte. */
async function filledWith(pages: number, byte: number): Promise<SharedMemory> {
  const memory = sharedMemory(pages * PAGE);
  const by = await stamped('signal', 'memory', pages, byte);
  by.segment.patch(0, memory);
  await by.segment.load();
  await closeStamped(by);
  assert.equal(memory.filledBytes, pages * PAGE);
  return memory;
}

onEachStamped('a later patch shadows an earlier one, wholly and in part', async (backend, kind) => {
  const a = await stamped(backend, kind, 12, 1);
  const two = await filledWith(8, 2);
  const three = await filledWith(2, 3);
  const four = await filledWith(12, 4);
  const laid = (page: number, memory: SharedMemory): string => {
    a.segment.patch(page * PAGE, memory);
    return digits(a);
  };
  assert.equal(laid(2, two), '112222222211');
  assert.equal(laid(5, three), '112223322211', 'its middle');
  assert.equal(laid(1, three), '133223322211', 'its head');
  assert.equal(laid(9, three), '133223322331', 'its tail');
  assert.equal(laid(10, three), '133223322333', 'the last part ends with the segment');
  assert.equal(laid(4, two), '133222222222');
  assert.equal(laid(0, four), '444444444444');
  assert.equal(laid(5, three), '444443344444');
  a.segment.release();
  assert.equal(digits(a), '111111111111');
  for (const memory of [two, three, four]) memory.close();
  await closeStamped(a);
});

onEachStamped('a page that lies in two places of a segment is one', async (backend, kind) => {
  const a = await stamped(backend, kind, 16, 1);
  const memory = sharedMemory(4 * PAGE);
  a.segment.patch(0, memory);
  a.segment.patch(8 * PAGE, memory);
  a.bytes[8 * PAGE + 5] = 77;
  assert.equal(a.bytes[5], 77);
  a.bytes[6] = 78;
  assert.equal(a.bytes[8 * PAGE + 6], 78);
  a.segment.write(9 * PAGE, Uint8Array.of(79));
  assert.equal(a.segment.read(PAGE, 1)[0], 79);
  assert.deepEqual(
    a.segment.dirty().map(({ offset }) => offset / PAGE),
    [0, 8],
    'each place has its own modifications',
  );
  await a.segment.flush();
  assert.equal(a.kept[5], 77);
  assert.equal(a.kept[8 * PAGE + 6], 78);
  memory.close();
  await closeStamped(a);
});

onEachStamped('each segment writes back what was written through it, and forgets for itself', async (backend, kind) => {
  const a = await stamped(backend, kind, 8, 1);
  const b = await stamped(backend, kind, 8, 2);
  const memory = sharedMemory(4 * PAGE);
  a.segment.patch(0, memory);
  b.segment.patch(4 * PAGE, memory);
  a.bytes[0] = 10;
  b.bytes[5 * PAGE] = 20;
  b.segment.write(6 * PAGE, Uint8Array.of(30));
  assert.deepEqual(a.segment.dirty(), [{ offset: 0, byteLength: PAGE }]);
  assert.deepEqual(b.segment.dirty(), [{ offset: 5 * PAGE, byteLength: 2 * PAGE }]);
  await a.segment.flush();
  assert.deepEqual([a.kept[0], a.kept[PAGE], b.kept[4 * PAGE]], [10, 1, 2]);
  assert.deepEqual(b.segment.dirty(), [{ offset: 5 * PAGE, byteLength: 2 * PAGE }]);
  b.segment.discard(5 * PAGE, PAGE);
  assert.deepEqual(b.segment.dirty(), [{ offset: 6 * PAGE, byteLength: PAGE }]);
  assert.equal(b.bytes[5 * PAGE], 20, 'what is shared stays');
  assert.equal(a.bytes[PAGE], 20);
  await b.segment.flush();
  assert.deepEqual([b.kept[5 * PAGE], b.kept[6 * PAGE]], [2, 30]);
  a.bytes[1] = 11;
  assert.deepEqual(a.segment.dirty(), [{ offset: 0, byteLength: PAGE }], 'seen again after the flush');
  a.segment.invalidate();
  assert.deepEqual([a.bytes[0], a.bytes[1], a.bytes[PAGE]], [10, 11, 20]);
  if (kind === 'custom onWrite') {
    const before = a.control.get('onWrite', 'calls');
    a.segment.resetWriteDetection();
    a.bytes[2] = 12;
    assert.equal(a.control.get('onWrite', 'calls'), before + 1);
  }
  memory.close();
  await closeStamped(a, b);
});

onEachStamped('release of everything takes patches off, but for modified and pinned ones', async (backend, kind) => {
  const a = await stamped(backend, kind, 16, 1);
  const memories = await Promise.all([filledWith(2, 2), filledWith(2, 3), filledWith(2, 4)]);
  for (const [i, memory] of memories.entries()) a.segment.patch(4 * i * PAGE, memory);
  assert.equal(digits(a), '2211331144111111');
  a.segment.release(0, 12 * PAGE);
  assert.equal(digits(a), '2211331144111111', 'a part: only unmapped');
  const pin = await a.segment.pin(PAGE, PAGE);
  a.bytes[9 * PAGE] = 9;
  assert.throws(() => a.segment.patch(PAGE, memories[1] as SharedMemory), { code: 'ERR_PAGEFAULT_PINNED' });
  assert.throws(() => a.segment.patch(8 * PAGE, memories[1] as SharedMemory), { code: 'ERR_PAGEFAULT_DIRTY' });
  a.segment.release();
  assert.equal(digits(a), '2211111149111111');
  pin.release();
  await a.segment.flush();
  a.segment.release();
  assert.equal(digits(a), '1111111119111111');
  assert.equal(a.kept[9 * PAGE], 9);
  for (const memory of memories) memory.close();
  await closeStamped(a);
});

onEachStamped('every way to read and write goes to shared memory', async (backend, kind) => {
  const a = await stamped(backend, kind, 8, 1);
  const b = await stamped(backend, kind, 8, 2);
  const memory = sharedMemory(8 * PAGE);
  for (const { segment } of [a, b]) segment.patch(0, memory);
  assert.equal(a.segment.read(0, 1)[0], 1);
  await b.segment.load(PAGE, PAGE);
  const pin = await a.segment.pin(2 * PAGE, PAGE);
  assert.equal(pin.bytes[0], 1);
  assert.equal(
    a.segment.attempt(() => a.bytes[3 * PAGE]),
    1,
  );
  b.segment.write(4 * PAGE + 1, Uint8Array.of(5));
  assert.equal(digits(a), '12112111');
  assert.equal(digits(b), '12112111');
  assert.equal(a.bytes[4 * PAGE + 1], 5);
  assert.equal(reads(a, b), 8);
  pin.release();
  memory.close();
  await closeStamped(a, b);
});

onEachStamped('a page that one store cannot bring is brought by the next', async (backend, kind, t) => {
  if (kind === 'memory') return t.skip('bytes in memory do not fail');
  const a = await stamped(backend, kind, 4, 1, { faultTimeoutMs: 200 });
  const b = await stamped(backend, kind, 4, 2);
  const memory = sharedMemory(4 * PAGE);
  for (const { segment } of [a, b]) segment.patch(0, memory);
  a.control.set('read', 'permanent', 0);
  assert.throws(() => a.segment.read(PAGE, 1), PageError);
  assert.equal(memory.filledBytes, 0);
  assert.equal(b.bytes[PAGE], 2);
  await a.segment.load(PAGE, PAGE);
  assert.equal(a.bytes[PAGE], 2, 'it was shown what is there');
  assert.throws(() => a.segment.attempt(() => a.bytes[2 * PAGE]), PageError);
  assert.equal(a.segment.stats().failedPages, 1);
  memory.close();
  await closeStamped(a, b);
});

onEachStamped('a budget counts and evicts shared pages, from its own segment only', async (backend, kind) => {
  const a = await stamped(backend, kind, 64, 1, { resident: 8 * PAGE });
  const b = await stamped(backend, kind, 64, 2);
  const memory = sharedMemory(32 * PAGE);
  a.segment.patch(16 * PAGE, memory);
  b.segment.patch(0, memory);
  for (let page = 0; page < 64; page++) {
    a.bytes[page * PAGE + 1] = page;
    const { budgetBytes } = a.segment.stats();
    assert.ok(budgetBytes <= 8 * PAGE, `${budgetBytes} bytes charged`);
  }
  assert.ok(a.segment.stats().evictions >= 48);
  for (let page = 0; page < 32; page++) assert.equal(b.bytes[page * PAGE + 1], page + 16);
  assert.equal(reads(b), 0);
  await a.segment.flush();
  for (let page = 0; page < 64; page++) assert.equal(a.kept[page * PAGE + 1], page);
  assert.equal(memory.filledBytes, 32 * PAGE);
  memory.close();
  await closeStamped(a, b);
});

onEachBackend('shared memory may end where the segment ends, within a page', async (backend) => {
  const a = await stamped(backend, 'memory', 16, 1, { byteLength: 9 * PAGE + 100, pageSize: 4 * PAGE });
  const b = await stamped(backend, 'memory', 16, 2, { byteLength: 1 * PAGE + 100 });
  const memory = sharedMemory(PAGE + 100);
  a.segment.patch(8 * PAGE, memory);
  b.segment.patch(0, memory);
  assert.equal(b.bytes[PAGE + 99], 2);
  assert.equal(a.bytes[9 * PAGE + 99], 2);
  assert.equal(a.bytes[8 * PAGE], 1);
  assert.equal(b.bytes[0], 1);
  assert.equal(memory.filledBytes, PAGE + 100);
  a.segment.release();
  assert.equal(a.bytes[9 * PAGE + 99], 1);
  memory.close();
  await closeStamped(a, b);
});

onEachBackend('Workers touch a segment while patches come and go: no zero, no crash', async (backend) => {
  const a = await stamped(backend, 'memory', 64, 1, { shared: true });
  const other = await stamped(backend, 'memory', 64, 2);
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const workers = [1, 2].map(
    (seed) =>
      new Worker(new URL('../fixtures/patched-toucher.js', import.meta.url), {
        workerData: { handle: a.segment.handle, stop, seed, allowed: [1, 2] },
      }),
  );
  await Promise.all(workers.map((worker) => once(worker, 'message')));
  const answers = workers.map((worker) => once(worker, 'message'));
  const end = Date.now() + 1500;
  for (let round = 0; Date.now() < end; round++) {
    const memory = sharedMemory(16 * PAGE);
    other.segment.patch((round % 48) * PAGE, memory);
    a.segment.patch(((round * 7) % 48) * PAGE, memory);
    assert.ok([1, 2].includes(other.bytes[((round % 48) + 3) * PAGE] ?? 0));
    memory.close();
    if (round % 3 === 0) a.segment.release();
    if (round % 3 === 1) other.segment.release();
    await new Promise((resolve) => setImmediate(resolve));
  }
  Atomics.store(stop, 0, 1);
  for (const [answer] of await Promise.all(answers)) {
    assert.equal(answer.wrong, 0);
    assert.ok(answer.touches > 100);
  }
  await closeStamped(a, other);
});

onEachBackend('patching and releasing a thousand times leaves nothing behind', async (backend) => {
  const mappings = (): number => readFileSync('/proc/self/maps', 'latin1').split('\n').length;
  const a = await stamped(backend, 'memory', 64, 1);
  const b = await stamped(backend, 'memory', 64, 2);
  const round = (): void => {
    const memory = sharedMemory(16 * PAGE);
    a.segment.patch(8 * PAGE, memory);
    b.segment.patch(0, memory);
    assert.equal(a.bytes[9 * PAGE], 1);
    assert.equal(b.bytes[PAGE], 1);
    a.segment.release();
    b.segment.release();
    assert.equal(b.bytes[PAGE], 2);
    memory.close();
  };
  for (let i = 0; i < 10; i++) round();
  const before = { fds: openFds(), mappings: mappings() };
  for (let i = 0; i < 1000; i++) round();
  assert.ok(openFds() <= before.fds, `${openFds()} descriptors, before ${before.fds}`);
  assert.ok(mappings() <= before.mappings + 50, `${mappings()} mappings, before ${before.mappings}`);
  await closeStamped(a, b);
});

onEachBackend('memory that exists can be patched, and given again', async (backend) => {
  const into = new ArrayBuffer(32 * PAGE);
  for (const writable of [true, false]) {
    const a = await stamped(backend, 'memory', 16, 1, { into, writable });
    const b = await stamped(backend, 'memory', 16, 2);
    const memory = sharedMemory(4 * PAGE);
    a.segment.patch(4 * PAGE, memory);
    b.segment.patch(0, memory);
    b.bytes[1] = 5;
    assert.equal(a.bytes[4 * PAGE + 1], 5);
    assert.equal(a.bytes[5 * PAGE], 1);
    assert.equal(digits(a), '1111211111111111');
    if (writable) {
      a.bytes[5 * PAGE + 1] = 6;
      assert.equal(b.bytes[PAGE + 1], 6);
    }
    memory.close();
    await closeStamped(a, b);
  }
  const plain = await stamped(backend, 'memory', 16, 3, { into });
  assert.equal(digits(plain), '3333333333333333');
  await closeStamped(plain);
});

onEachBackend('a closed segment cannot be patched', async (backend) => {
  const a = await stamped(backend, 'memory', 8, 1);
  const memory = sharedMemory(PAGE);
  await closeStamped(a);
  assert.throws(
    () => a.segment.patch(0, memory),
    (error: unknown) => error instanceof PagefaultError && error.code === 'ERR_PAGEFAULT_CLOSED',
  );
  memory.close();
});
