/** attempt, load, pin, release, invalidate, stats and close: on every backend. */

import assert from 'node:assert/strict';
import { closeSync, openSync, readSync, writeFileSync, writeSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';
import { ClosedError, map, PageError, type Segment, systemPageSize } from 'pagefault';
import { file, memory } from 'pagefault/stores';
import { PAGE_PINNED, PAGE_STATE } from '#dist/native/binding.js';
import {
  firstDifference,
  knownStore,
  onEachBackend,
  onEachStore,
  patternBytes,
  patternFile,
  temporaryPath,
} from '../helpers/stores.js';

const PAGE = systemPageSize();
const STATE = 0x07;

function present(segment: Segment): number[] {
  return [...segment.pages().entries()].filter(([, byte]) => (byte & STATE) === PAGE_STATE.present).map(([i]) => i);
}

onEachStore('load() brings a range in without a fault, and says how far it is', async (backend, kind) => {
  const { ref, byte } = knownStore(kind, 64 * PAGE);
  const segment = await map(ref, { backend });
  try {
    const progress: number[] = [];
    await segment.load(3 * PAGE + 1, 40 * PAGE, { onProgress: (bytes) => progress.push(bytes) });
    assert.deepEqual(
      present(segment),
      Array.from({ length: 41 }, (_, i) => i + 3),
    );
    assert.equal(segment.stats().faults, 0);
    assert.deepEqual(
      progress,
      [...progress].sort((a, b) => a - b),
    );
    assert.ok((progress.at(-1) ?? 0) <= 41 * PAGE);
    assert.equal(firstDifference(segment.view(Uint8Array, 3 * PAGE, 41 * PAGE), 3 * PAGE, byte), -1);
    assert.equal(segment.stats().faults, 0);
    await segment.load();
    assert.equal(present(segment).length, 64);
    await segment.load(64 * PAGE);
  } finally {
    await segment.close();
  }
});

onEachBackend('load() and pin() that are aborted reject with the reason of the signal', async (backend) => {
  const segment = await map(memory(new Uint8Array(4 * PAGE)), { backend });
  try {
    const reason = new Error('changed my mind');
    await assert.rejects(segment.load(0, PAGE, { signal: AbortSignal.abort(reason) }), reason);
    await assert.rejects(segment.pin(0, PAGE, { signal: AbortSignal.abort(reason) }), reason);
    assert.deepEqual(present(segment), []);
  } finally {
    await segment.close();
  }
});

onEachBackend('wrong options and ranges of load() and pin() reject in a sentence', async (backend) => {
  const segment = await map(memory(new Uint8Array(4 * PAGE)), { backend });
  try {
    await assert.rejects(segment.load(0, 4 * PAGE + 1), { name: 'RangeError' });
    await assert.rejects(segment.load(0, 1, { progress: 1 } as never), { message: /did you mean 'onProgress'\?/ });
    await assert.rejects(segment.load(0, 1, { onProgress: 1 } as never), { message: /onProgress must be a function/ });
    await assert.rejects(segment.pin(0, 1, { signal: {} } as never), { message: /AbortSignal/ });
    await assert.rejects(segment.pin(0, undefined as never), { name: 'TypeError' });
  } finally {
    await segment.close();
  }
});

onEachStore('a pinned range stays in memory whatever is released, until the last pin goes', async (backend, kind) => {
  const { ref, byte } = knownStore(kind, 16 * PAGE);
  const segment = await map(ref, { backend, readahead: 0 });
  try {
    const first = await segment.pin(4 * PAGE + 10, PAGE);
    const second = await segment.pin(5 * PAGE, 1);
    assert.equal(firstDifference(first.bytes, 4 * PAGE + 10, byte), -1);
    assert.equal(first.bytes.length, PAGE);
    assert.equal(segment.stats().pinnedPages, 2);
    assert.ok((segment.pages()[4] ?? 0) & PAGE_PINNED);
    await segment.load();
    assert.equal(segment.release(), 14 * PAGE);
    assert.deepEqual(present(segment), [4, 5]);
    first.release();
    first.release();
    assert.equal(segment.release(), PAGE);
    assert.deepEqual(present(segment), [5]);
    second[Symbol.dispose]();
    assert.equal(segment.stats().pinnedPages, 0);
    assert.equal(segment.release(), PAGE);
  } finally {
    await segment.close();
  }
});

onEachBackend('a pinned range can be handed to a system call', async (backend) => {
  const segment = await map(memory(patternBytes(8 * PAGE)), { backend });
  const path = temporaryPath();
  try {
    const pin = await segment.pin(PAGE, 3 * PAGE);
    const fd = openSync(path, 'w+');
    assert.equal(writeSync(fd, pin.bytes), 3 * PAGE);
    const back = new Uint8Array(3 * PAGE);
    readSync(fd, back, 0, back.length, 0);
    closeSync(fd);
    assert.deepEqual(back, patternBytes(8 * PAGE).subarray(PAGE, 4 * PAGE));
    pin.release();
  } finally {
    await segment.close();
  }
});

onEachStore('released pages are loaded again when they are touched', async (backend, kind) => {
  const { ref, byte } = knownStore(kind, 16 * PAGE);
  const segment = await map(ref, { backend, readahead: 0 });
  try {
    await segment.load();
    const loads = segment.stats().loads;
    assert.equal(segment.release(PAGE + 1, 4 * PAGE - 1), 3 * PAGE, 'only the whole pages inside the range');
    assert.deepEqual(present(segment), [0, 1, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
    assert.equal(segment.stats().residentBytes, 13 * PAGE);
    assert.equal(firstDifference(segment.view(Uint8Array), 0, byte), -1);
    assert.equal(segment.stats().loads, loads + 3);
  } finally {
    await segment.close();
  }
});

onEachBackend('after invalidate() a touch sees what the store has now', async (backend) => {
  const path = patternFile(4 * PAGE);
  const segment = await map(file(path), { backend, readahead: 0 });
  try {
    const bytes = segment.view(Uint8Array);
    const before = bytes[2 * PAGE] ?? 0;
    assert.equal(before, patternBytes(4 * PAGE)[2 * PAGE]);
    writeFileSync(path, new Uint8Array(4 * PAGE).fill(before + 1), { flag: 'r+' });
    assert.equal(bytes[2 * PAGE], before, 'a loaded page stays as it is');
    segment.invalidate();
    assert.equal(bytes[2 * PAGE], (before + 1) & 0xff);
    assert.equal(bytes[0], (before + 1) & 0xff);
  } finally {
    await segment.close();
  }
});

onEachBackend('a pinned page that is invalidated is read again once it is unpinned', async (backend) => {
  const shared = new Uint8Array(new SharedArrayBuffer(2 * PAGE)).fill(1);
  const segment = await map(memory(shared), { backend, readahead: 0 });
  try {
    const bytes = segment.view(Uint8Array);
    const pin = await segment.pin(0, PAGE);
    shared.fill(2);
    segment.invalidate();
    assert.equal(bytes[0], 1);
    pin.release();
    assert.equal(bytes[0], 2);
  } finally {
    await segment.close();
  }
});

onEachBackend('attempt() gives what its function returns and throws what it throws', async (backend) => {
  const segment = await map(memory(patternBytes(2 * PAGE)), { backend });
  try {
    const bytes = segment.view(Uint8Array);
    assert.equal(
      segment.attempt(() => bytes[PAGE]),
      patternBytes(2 * PAGE)[PAGE],
    );
    const error = new Error('mine');
    assert.throws(
      () =>
        segment.attempt(() => {
          throw error;
        }),
      error,
    );
    assert.throws(() => segment.attempt(async () => 1), { name: 'TypeError', message: /must be synchronous/ });
    assert.throws(() => segment.attempt(1 as never), { name: 'TypeError' });
    assert.equal(
      segment.attempt(() => segment.attempt(() => 5)),
      5,
    );
  } finally {
    await segment.close();
  }
});

onEachStore('stats() counts faults, loads, bytes and time', async (backend, kind) => {
  const { ref } = knownStore(kind, 8 * PAGE);
  const segment = await map(ref, { backend, readahead: 0 });
  try {
    const bytes = segment.view(Uint8Array);
    let sum = 0;
    for (let i = 0; i < 8; i++) sum += bytes[i * PAGE] ?? 0;
    assert.ok(sum >= 0);
    const stats = segment.stats();
    assert.equal(stats.faults, 8);
    assert.equal(stats.loads, 8);
    assert.equal(stats.residentBytes, 8 * PAGE);
    assert.equal(stats.failures, 0);
    let { latency } = stats;
    const counted = (): number => latency.buckets.reduce((total, count) => total + count, 0);
    // With backend thread a page of a JavaScript store is opened by its Worker; the service thread notes the time when it hears of that.
    for (let tries = 0; backend === 'thread' && counted() < 8 && tries < 500; tries++) {
      await setTimeout(10);
      ({ latency } = segment.stats());
    }
    assert.equal(counted(), 8);
    assert.ok(
      latency.p50 > 0 && latency.p50 <= latency.p90 && latency.p90 <= latency.p99 && latency.p99 <= latency.max,
    );
    assert.equal(typeof stats.forwardedSignals, 'number');
  } finally {
    await segment.close();
  }
});

onEachStore('close() detaches the buffer, is idempotent, and ends every operation', async (backend, kind) => {
  const { ref } = knownStore(kind, 4 * PAGE);
  const segment = await map(ref, { backend, name: 'the closed one' });
  const view = segment.view(Uint8Array);
  const pin = await segment.pin(0, PAGE);
  assert.equal(view[0], view[0]);
  await Promise.all([segment.close(), segment.close()]);
  await segment.close({ discard: true });
  assert.equal(segment.buffer.byteLength, 0);
  assert.equal(view.length, 0);
  assert.equal(segment.byteLength, 4 * PAGE);
  pin.release();
  const closed = { name: 'ClosedError', code: 'ERR_PAGEFAULT_CLOSED', message: /"the closed one" is closed/ };
  const operations: (() => unknown)[] = [
    () => segment.view(Uint8Array),
    () => segment.read(0, 1),
    () => segment.attempt(() => 1),
    () => segment.release(),
    () => segment.invalidate(),
    () => segment.stats(),
    () => segment.pages(),
    () => segment.handle,
  ];
  for (const operation of operations) assert.throws(operation, closed, String(operation));
  await assert.rejects(segment.load(), closed);
  await assert.rejects(segment.pin(0, 1), closed);
});

onEachBackend('close() with wrong options rejects and leaves the segment open', async (backend) => {
  const segment = await map(memory(new Uint8Array(PAGE)), { backend });
  await assert.rejects(segment.close({ discrad: true } as never), { message: /did you mean 'discard'\?/ });
  assert.equal(segment.view(Uint8Array)[0], 0);
  await segment[Symbol.asyncDispose]();
  assert.throws(() => segment.stats(), ClosedError);
});

onEachBackend('a file that is truncated while it is mapped fails its pages and does not read zero', async (backend) => {
  const path = patternFile(8 * PAGE);
  const segment = await map(file(path), { backend, readahead: 0, faultTimeoutMs: 500 });
  try {
    const bytes = segment.view(Uint8Array);
    assert.equal(bytes[0], patternBytes(1)[0]);
    writeFileSync(path, patternBytes(2 * PAGE));
    assert.throws(
      () => segment.read(5 * PAGE, 10),
      (error: unknown) => {
        assert.ok(error instanceof PageError);
        assert.ok(['ERR_PAGEFAULT_STORE_CHANGED', 'ERR_PAGEFAULT_SHORT_READ'].includes(error.code), error.code);
        assert.equal(error.offset, 5 * PAGE);
        assert.equal(error.page, 5);
        assert.match(error.message, /at offset 20480 of segment "file\(/);
        return true;
      },
    );
    let value: number | undefined;
    assert.throws(
      () =>
        segment.attempt(() => {
          value = bytes[6 * PAGE];
        }),
      PageError,
    );
    assert.equal(value, 0, 'the touch itself reads zero');
    assert.equal(bytes[0], patternBytes(1)[0], 'other pages stay usable');
    assert.ok(segment.stats().failedPages >= 1);
    writeFileSync(path, patternBytes(8 * PAGE));
    segment.invalidate();
    await segment.load(5 * PAGE, 2 * PAGE);
    assert.equal(bytes[6 * PAGE], patternBytes(8 * PAGE)[6 * PAGE], 'a later load heals the page');
    assert.equal(segment.stats().failedPages, 0);
  } finally {
    await segment.close();
  }
});

onEachBackend("onChange: 'ignore' takes what the file has", async (backend) => {
  const path = patternFile(4 * PAGE);
  const segment = await map(file(path, { onChange: 'ignore' }), { backend, readahead: 0 });
  try {
    writeFileSync(path, new Uint8Array(4 * PAGE).fill(77), { flag: 'r+' });
    assert.equal(segment.view(Uint8Array)[3 * PAGE], 77);
  } finally {
    await segment.close();
  }
});

onEachBackend("with unreadable: 'zero' a page that cannot be had reads zero and is counted", async (backend) => {
  const path = patternFile(8 * PAGE);
  const segment = await map(file(path), { backend, readahead: 0, faultTimeoutMs: 300, unreadable: 'zero' });
  try {
    writeFileSync(path, new Uint8Array(0));
    const told = new Promise<Event>((resolve) => segment.addEventListener('pageerror', resolve, { once: true }));
    assert.equal(segment.view(Uint8Array)[5 * PAGE], 0);
    assert.equal(segment.stats().failedPages, 1);
    assert.throws(() => segment.read(5 * PAGE, 1), PageError);
    const alive = setInterval(() => {}, 100);
    const event = (await told) as Event & { error: PageError };
    clearInterval(alive);
    assert.equal(event.type, 'pageerror');
    assert.equal(event.error.offset, 5 * PAGE);
  } finally {
    await segment.close();
  }
});
