/** Whatever a store fails in is told as an event, with code, page, store and cause, and heals once the store is well again. On every backend. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { map, PageError, type PageErrorEvent, type Segment } from 'pagefault';
import { custom, file } from 'pagefault/stores';
import { CONTROL, type FaultyOptions, type MODES, makeControl, setMode } from '../fixtures/faulty.js';
import { patternByte } from '../fixtures/pattern.js';
import { backends, onEachBackend, patternFile } from '../helpers/stores.js';
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

test('each deadline that is over is told', async () => {
  const backend = backends[0] ?? 'signal';
  const control = makeControl();
  const options: FaultyOptions = { byteLength: 16 * PAGE, control: control.buffer };
  const ref = custom(new URL('../fixtures/faulty.js', import.meta.url), options);
  const segment = await map(ref, { backend, readahead: 0, ...SOON });
  setMode(control, 'never');
  const told = next(segment);
  assert.throws(() => segment.read(6 * PAGE, 1), { code: 'ERR_PAGEFAULT_TIMEOUT' });
  const { error } = await told;
  assert.deepEqual([error.code, error.page], ['ERR_PAGEFAULT_TIMEOUT', 6]);
  await segment.close();
  await whileOpen(
    await writable(backend, 'custom sync', 16 * PAGE, SOON),
    async ({ segment: written, bytes, model, control: of }) => {
      for (const call of ['write', 'sync'] as const) {
        bytes[3 * PAGE] = model[3 * PAGE] = 7;
        of.set(call, 'never');
        const late = next(written);
        await assert.rejects(written.flush(), { code: 'ERR_PAGEFAULT_TIMEOUT' });
        assert.equal((await late).error.code, 'ERR_PAGEFAULT_TIMEOUT');
        of.set(call, 'well');
      }
    },
  );
});

test('an eviction whose write fails is told, and loses nothing', async () => {
  const backend = backends[0] ?? 'signal';
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
