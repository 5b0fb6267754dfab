/** Whatever a store fails in is told as an event, with code, page, store and cause, and heals once the store is well again. On every backend. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { test } from 'node:test';
import { budget, map, PageError, type PageErrorEvent, type Segment } from 'pagefault';
import { custom, file } from 'pagefault/stores';
import { CONTROL, type FaultyOptions, type MODES, makeControl, setMode } from '../fixtures/faulty.js';
import { patternByte } from '../fixtures/pattern.js';
import { backends, firstDifference, onEachBackend, patternFile, temporaryPath } from '../helpers/stores.js';
import { onEachWritableBackend, PAGE, whileOpen, writable } from '../helpers/writable.js';

const OPTIONS = { faultTimeoutMs: 20_000, pollIntervalMs: 50 };
const SOON = { ...OPTIONS, faultTimeoutMs: 1000 };

/** The next event. The timer of the events does not keep the process alive. */
async function next(segment: Segment): Promise<PageErrorEvent> {
  const alive = setInterval(() => {}, 1000);
  const [event] = (await once(segment, 'pageerror')) as [PageErrorEvent];
  clearInterval(alive);
  return event;
}

const reads = [
  ['permanent', 'ERR_PAGEFAULT_STORE'],
  ['short', 'ERR_PAGEFAULT_SHORT_READ'],
  ['long', 'ERR_PAGEFAULT_LONG_READ'],
] as const satisfies readonly (readonly [(typeof MODES)[number], string])[];

onEachBackend('each way in which a read fails is told, and heals', async (backend) => {
  const control = makeControl();
  const options: FaultyOptions = { byteLength: 16 * PAGE, control: control.buffer };
  const ref = custom(new URL('../fixtures/faulty.js', import.meta.url), options);
  const segment = await map(ref, { backend, readahead: 0, name: 'told', ...OPTIONS });
  for (const [page, [mode, code]] of reads.entries()) {
    const told = next(segment);
    setMode(control, mode);
    assert.throws(() => segment.read(page * PAGE, 1), { code });
    const { error, store } = await told;
    assert.deepEqual([error.code, error.segment, error.offset, error.page], [code, 'told', page * PAGE, page]);
    assert.match(store, /^custom\(.*faulty/);
    if (mode === 'permanent') assert.equal((error.cause as Error).name, 'StoreFailure');
    setMode(control, 'well');
    assert.equal(segment.read((page + 8) * PAGE + 3, 1)[0], patternByte((page + 8) * PAGE + 3), 'other pages are well');
    await segment.load(page * PAGE, PAGE);
    assert.equal(segment.read(page * PAGE + 3, 1)[0], patternByte(page * PAGE + 3));
  }
  assert.ok(Atomics.load(control, CONTROL.reads) > 0);
  assert.equal(segment.stats().failedPages, 0);
  await segment.close();
});

onEachBackend('a file that was shortened is told', async (backend) => {
  const path = patternFile(8 * PAGE);
  const segment = await map(file(path), { backend, readahead: 0, ...OPTIONS });
  const told = next(segment);
  writeFileSync(path, new Uint8Array(0));
  assert.throws(() => segment.read(2 * PAGE, 1), PageError);
  const { error, store } = await told;
  assert.equal(error.page, 2);
  assert.match(store, /^file\(/);
  await segment.close();
});

const writes = [
  ['write', 'permanent', 'ERR_PAGEFAULT_STORE_WRITE'],
  ['sync', 'permanent', 'ERR_PAGEFAULT_STORE_SYNC'],
] as const;

onEachWritableBackend('each way in which a flush fails is told, and it can be repeated', async (backend) => {
  await whileOpen(
    await writable(backend, 'custom sync', 16 * PAGE, OPTIONS),
    async ({ segment, bytes, contents, model, control }) => {
      for (const [call, way, code] of writes) {
        bytes[3 * PAGE + 4] = model[3 * PAGE + 4] = 0xbb;
        control.set(call, way);
        const told = next(segment);
        await assert.rejects(segment.flush(), { code });
        const { error, store } = await told;
        assert.equal(error.code, code);
        assert.equal(error.segment, 'written');
        if (call === 'write') assert.equal(error.page, 3);
        assert.match(store, /^custom\(/);
        control.set(call, 'well');
        await segment.flush();
        assert.deepEqual(contents(), model);
      }
    },
  );
});

onEachWritableBackend('an onWrite that refuses is told, and asked again', async (backend) => {
  await whileOpen(
    await writable(backend, 'custom onWrite', 16 * PAGE, OPTIONS),
    async ({ segment, bytes, model, control }) => {
      control.set('onWrite', 'permanent');
      const told = next(segment);
      assert.throws(() => segment.write(5 * PAGE, Uint8Array.of(1)), PageError);
      assert.equal((await told).error.page, 5);
      control.set('onWrite', 'well');
      bytes[5 * PAGE] = model[5 * PAGE] = 1;
      assert.equal(segment.read(5 * PAGE, 1)[0], 1);
      await segment.flush();
    },
  );
});

onEachBackend('a read whose deadline is over is told, and heals', async (backend) => {
  const control = makeControl();
  const options: FaultyOptions = { byteLength: 16 * PAGE, control: control.buffer };
  const ref = custom(new URL('../fixtures/faulty.js', import.meta.url), options);
  const segment = await map(ref, { backend, readahead: 0, ...SOON });
  try {
    setMode(control, 'never');
    const told = next(segment);
    assert.throws(() => segment.read(6 * PAGE, 1), { code: 'ERR_PAGEFAULT_TIMEOUT' });
    const { error, store } = await told;
    assert.deepEqual([error.code, error.page], ['ERR_PAGEFAULT_TIMEOUT', 6]);
    assert.match(store, /^custom\(.*faulty/);
    setMode(control, 'well');
    await segment.load(6 * PAGE, PAGE);
    assert.equal(segment.read(6 * PAGE + 3, 1)[0], patternByte(6 * PAGE + 3));
  } finally {
    await segment.close();
  }
});

onEachWritableBackend('a flush whose deadline is over is told, and can be repeated', async (backend) => {
  await whileOpen(
    await writable(backend, 'custom sync', 16 * PAGE, SOON),
    async ({ segment, bytes, contents, model, control }) => {
      for (const call of ['write', 'sync'] as const) {
        bytes[3 * PAGE] = model[3 * PAGE] = call === 'write' ? 7 : 8;
        control.set(call, 'never');
        const late = next(segment);
        await assert.rejects(segment.flush(), { code: 'ERR_PAGEFAULT_TIMEOUT' });
        const { error } = await late;
        assert.equal(error.code, 'ERR_PAGEFAULT_TIMEOUT');
        if (call === 'write') assert.equal(error.page, 3);
        control.set(call, 'well');
        await segment.flush();
        assert.deepEqual(contents(), model);
      }
    },
  );
});

onEachWritableBackend('a deadline that is over while there is no room in the budget is told', async (backend) => {
  const shared = budget(16 * PAGE);
  const patient = { ...OPTIONS, faultTimeoutMs: 60_000, resident: shared };
  const ref = file(patternFile(8 * PAGE));
  const waits = await map(ref, {
    backend,
    readahead: 0,
    name: 'waits',
    ...OPTIONS,
    faultTimeoutMs: 400,
    resident: shared,
  });
  const out = openSync(temporaryPath(), 'w');
  try {
    await whileOpen(
      await writable(backend, 'custom async', 64 * PAGE, patient),
      async ({ segment: full, bytes, contents, model, control }) => {
        control.set('write', 'hold');
        const told = next(waits);
        let refused: unknown;
        // Written pages fill the budget until a page of the other segment finds no room beside them.
        for (let page = 0; refused === undefined && page < 64; page++) {
          try {
            waits.read(2 * PAGE, 1);
            waits.release();
            bytes[page * PAGE + 9] = model[page * PAGE + 9] = 0xa0 + page;
          } catch (error) {
            refused = error;
          }
        }
        const { error, store } = await told;
        for (const { code, segment, page } of [refused as PageError, error]) {
          assert.deepEqual([code, segment, page], ['ERR_PAGEFAULT_BUDGET', 'waits', 2]);
        }
        assert.match(error.message, /the budget has no room: what is in it is .* or waits to be written$/);
        assert.match(store, /^file\(/);
        for (const page of waits.kernelFaults ? [4, 5, 6] : []) {
          const again = next(waits);
          assert.throws(() => writeSync(out, waits.view(Uint8Array, page * PAGE, PAGE)), { code: 'EFAULT' });
          assert.deepEqual([(await again).error.code, (await again).error.page], ['ERR_PAGEFAULT_BUDGET', page]);
        }
        control.set('write', 'well');
        control.put('write', 'go', 1);
        await full.flush(); // from here on there is room
        // What the system calls were refused is nothing to this thread's own touches, nor to a call that is handed a pin.
        for (const page of [2, 4]) assert.equal(waits.read(page * PAGE + 3, 1)[0], patternByte(page * PAGE + 3));
        assert.equal(waits.view(Uint8Array)[5 * PAGE + 3], patternByte(5 * PAGE + 3));
        const pin = await waits.pin(6 * PAGE, PAGE);
        assert.equal(writeSync(out, pin.bytes), PAGE);
        pin.release();
        assert.deepEqual(contents(), model);
      },
    );
  } finally {
    closeSync(out);
    await waits.close();
    shared.close();
  }
});

const servesKernel = backends.includes('thread');

test('a system call that gets EFAULT for a page that cannot be had is told, and heals', {
  skip: servesKernel ? false : 'this process may not serve faults of the kernel',
}, async () => {
  const control = makeControl();
  const options: FaultyOptions = { byteLength: 16 * PAGE, control: control.buffer };
  const ref = custom(new URL('../fixtures/faulty.js', import.meta.url), options);
  const segment = await map(ref, { backend: 'thread', readahead: 0, name: 'called', ...SOON });
  const path = temporaryPath();
  const out = openSync(path, 'w+');
  const send = (page: number): number => writeSync(out, segment.view(Uint8Array, page * PAGE, PAGE), 0, PAGE, 0);
  try {
    for (const [page, [mode, code]] of [...reads, ['never', 'ERR_PAGEFAULT_TIMEOUT'] as const].entries()) {
      const told = next(segment);
      setMode(control, mode);
      assert.throws(() => send(page), { code: 'EFAULT' });
      const { error, store } = await told;
      assert.deepEqual([error.code, error.segment, error.page], [code, 'called', page]);
      assert.match(store, /^custom\(.*faulty/);
      if (mode === 'permanent') assert.equal((error.cause as Error).name, 'StoreFailure');
      setMode(control, 'well');
      assert.equal(send(page + 8), PAGE, 'other pages are well');
      await segment.load(page * PAGE, PAGE);
      assert.equal(send(page), PAGE);
      assert.equal(firstDifference(readFileSync(path), page * PAGE, patternByte), -1);
    }
  } finally {
    closeSync(out);
    await segment.close();
  }
});

onEachWritableBackend('an eviction whose write fails is told, and loses nothing', async (backend) => {
  const options = { ...SOON, resident: 8 * PAGE };
  await whileOpen(await writable(backend, 'custom sync', 64 * PAGE, options), async ({ segment, model, control }) => {
    control.set('write', 'permanent');
    const told = next(segment);
    for (let page = 0; page < 24; page++) {
      try {
        segment.write(page * PAGE + 1, Uint8Array.of(page + 1));
        model[page * PAGE + 1] = page + 1;
      } catch (error) {
        assert.ok(error instanceof PageError);
        break;
      }
    }
    const { error } = await told;
    assert.match(error.code, /STORE_WRITE|BUDGET/);
    control.set('write', 'well');
    await segment.flush();
    assert.deepEqual(segment.read(0, 64 * PAGE), model);
  });
});
