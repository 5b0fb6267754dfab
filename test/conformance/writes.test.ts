/** Writable segments: on every backend, with every store that can write, however writes are tracked. */

import assert from 'node:assert/strict';
import { closeSync, openSync, readSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { map } from 'pagefault';
import { file, memory } from 'pagefault/stores';
import { ACCESS } from '../fixtures/keeping.js';
import { patternBytes, temporaryPath } from '../helpers/stores.js';
import {
  onEachWritable,
  onEachWritableBackend,
  PAGE,
  tracksByFaults,
  whileOpen,
  writable,
} from '../helpers/writable.js';

onEachWritable('what is written through a view is modified, and in the store after a flush', async (backend, kind) => {
  await whileOpen(await writable(backend, kind, 16 * PAGE), async ({ segment, bytes, model, contents }) => {
    assert.equal(segment.writable, true);
    assert.deepEqual(segment.dirty(), []);
    for (const at of [0, 3 * PAGE + 17, 4 * PAGE, 9 * PAGE + PAGE - 1]) {
      bytes[at] = (bytes[at] ?? 0) ^ 0x5a;
      model[at] = (model[at] ?? 0) ^ 0x5a;
    }
    assert.deepEqual(segment.dirty(), [
      { offset: 0, byteLength: PAGE },
      { offset: 3 * PAGE, byteLength: 2 * PAGE },
      { offset: 9 * PAGE, byteLength: PAGE },
    ]);
    assert.deepEqual(contents(), patternBytes(16 * PAGE), 'not before the flush');
    await segment.flush();
    assert.deepEqual(contents(), model);
    assert.deepEqual(segment.dirty(), []);
    assert.deepEqual(segment.read(0, 16 * PAGE), model);
    assert.equal(segment.stats().flushedPages, 4);
    bytes[3 * PAGE] = 1;
    model[3 * PAGE] = 1;
    assert.deepEqual(segment.dirty(), [{ offset: 3 * PAGE, byteLength: PAGE }], 'the next write is seen again');
    await segment.flush();
    assert.deepEqual(contents(), model);
  });
});

onEachWritable(
  'a page that is written before it was ever read holds the store around what was written',
  async (backend, kind) => {
    await whileOpen(await writable(backend, kind, 4 * PAGE), async ({ segment, bytes, model, contents }) => {
      bytes[2 * PAGE + 100] = 0xee;
      model[2 * PAGE + 100] = 0xee;
      assert.deepEqual(segment.read(0, 4 * PAGE), model);
      await segment.flush();
      assert.deepEqual(contents(), model);
    });
  },
);

onEachWritable('write() takes any range, and what it wrote is modified', async (backend, kind) => {
  await whileOpen(await writable(backend, kind, 16 * PAGE), async ({ segment, model, contents }) => {
    const ranges: [number, number][] = [
      [5, 1],
      [PAGE - 1, 2],
      [3 * PAGE, PAGE],
      [5 * PAGE + 1, 3 * PAGE],
      [16 * PAGE - 1, 1],
      [16 * PAGE, 0],
    ];
    for (const [offset, length] of ranges) {
      const from = Uint8Array.from({ length }, (_, i) => i * 31 + offset);
      segment.write(offset, from);
      model.set(from, offset);
    }
    assert.deepEqual(segment.read(0, 16 * PAGE), model);
    assert.deepEqual(segment.dirty(), [
      { offset: 0, byteLength: 2 * PAGE },
      { offset: 3 * PAGE, byteLength: PAGE },
      { offset: 5 * PAGE, byteLength: 4 * PAGE },
      { offset: 15 * PAGE, byteLength: PAGE },
    ]);
    await segment.flush();
    assert.deepEqual(contents(), model);
  });
});

onEachWritableBackend('write() takes bytes that are paged themselves, even its own', async (backend) => {
  const other = await map(memory(patternBytes(8 * PAGE)), { backend });
  await whileOpen(await writable(backend, 'memory', 64 * PAGE), ({ segment, bytes, model }) => {
    segment.write(10, other.view(Uint8Array, PAGE + 3, 5 * PAGE));
    model.set(patternBytes(8 * PAGE).subarray(PAGE + 3, 6 * PAGE + 3), 10);
    for (const [to, from, length] of [
      [20 * PAGE + 1, 19 * PAGE, 8 * PAGE],
      [30 * PAGE, 31 * PAGE + 9, 8 * PAGE],
      [7, 7, 2 * PAGE],
    ] as const) {
      segment.write(to, bytes.subarray(from, from + length));
      model.copyWithin(to, from, from + length);
    }
    assert.deepEqual(segment.read(0, 64 * PAGE), model);
  });
  await other.close();
});

onEachWritable('wrong arguments are refused in a sentence', async (backend, kind) => {
  await whileOpen(await writable(backend, kind, 4 * PAGE), async ({ segment }) => {
    assert.throws(() => segment.write(4 * PAGE, new Uint8Array(1)), { name: 'RangeError', message: /past the end/ });
    assert.throws(() => segment.write(-1, new Uint8Array(1)), { name: 'RangeError' });
    assert.throws(() => segment.write(0, [1] as never), { name: 'TypeError', message: /must be a Uint8Array/ });
    assert.throws(() => segment.dirty(5 * PAGE), { name: 'RangeError' });
    await assert.rejects(segment.flush(0, 4 * PAGE + 1), { name: 'RangeError' });
    await assert.rejects(segment.flush(0, 1, { progress: 1 } as never), { message: /did you mean 'onProgress'\?/ });
    assert.throws(() => segment.discard(0, -1), { name: 'RangeError' });
    assert.throws(() => segment.resetWriteDetection(1.5), { name: 'RangeError' });
  });
});

onEachWritable('flush() writes the modified pages that touch the range and no others', async (backend, kind) => {
  await whileOpen(await writable(backend, kind, 16 * PAGE), async ({ segment, bytes, contents }) => {
    for (let page = 0; page < 16; page++) bytes[page * PAGE] = 0xab;
    await segment.flush(3 * PAGE + 5, PAGE);
    assert.deepEqual(segment.dirty(), [
      { offset: 0, byteLength: 3 * PAGE },
      { offset: 5 * PAGE, byteLength: 11 * PAGE },
    ]);
    assert.deepEqual(segment.dirty(2 * PAGE, 2 * PAGE), [{ offset: 2 * PAGE, byteLength: PAGE }]);
    const store = contents();
    for (let page = 0; page < 16; page++) {
      const wanted = page === 3 || page === 4 ? 0xab : patternBytes(16 * PAGE)[page * PAGE];
      assert.equal(store[page * PAGE], wanted, `page ${page}`);
    }
    await segment.flush(7 * PAGE, 0);
    assert.equal(segment.dirty().length, 2);
  });
});

onEachWritable('flush() tells how far it is', async (backend, kind) => {
  await whileOpen(await writable(backend, kind, 64 * PAGE), async ({ segment, bytes }) => {
    bytes.fill(9);
    const progress: number[] = [];
    await segment.flush(0, 64 * PAGE, { onProgress: (done) => progress.push(done) });
    assert.deepEqual(
      progress,
      [...progress].sort((a, b) => a - b),
    );
    assert.ok(progress.every((done) => done <= 64 * PAGE));
  });
});

onEachWritable('the last page is written only as far as the store goes', async (backend, kind) => {
  const byteLength = 2 * PAGE + 100;
  await whileOpen(await writable(backend, kind, byteLength), async ({ segment, bytes, model, contents }) => {
    bytes[byteLength - 1] = 0x77;
    model[byteLength - 1] = 0x77;
    assert.deepEqual(segment.dirty(), [{ offset: 2 * PAGE, byteLength: 100 }]);
    await segment.flush();
    assert.deepEqual(contents(), model);
  });
});

onEachWritable('with pad, what lies past the store stays in memory and is not modified', async (backend, kind) => {
  const storeLength = 2 * PAGE + 100;
  const options = { byteLength: 6 * PAGE, pad: true };
  await whileOpen(await writable(backend, kind, storeLength, options), async ({ segment, bytes, model, contents }) => {
    bytes[storeLength - 1] = 1;
    model[storeLength - 1] = 1;
    bytes[storeLength + 5] = 2;
    bytes[4 * PAGE + 7] = 3;
    assert.deepEqual(segment.dirty(), [{ offset: 2 * PAGE, byteLength: PAGE }]);
    await segment.flush();
    assert.deepEqual(contents(), model);
    assert.deepEqual(segment.dirty(), []);
    segment.release();
    assert.equal(bytes[4 * PAGE + 7], 3);
    assert.equal(bytes[storeLength - 1], 1);
  });
});

onEachWritable('a part of the store is written where it lies', async (backend, kind) => {
  for (const offset of [1, PAGE, 3 * PAGE + 77]) {
    const options = { offset, byteLength: 4 * PAGE + 9 };
    await whileOpen(await writable(backend, kind, 10 * PAGE, options), async ({ segment, bytes, model, contents }) => {
      for (const at of [0, 2 * PAGE - 1, 4 * PAGE + 8]) {
        bytes[at] = 0xc3;
        model[offset + at] = 0xc3;
      }
      await segment.flush();
      assert.deepEqual(contents(), model);
    });
  }
});

for (const pageSize of [4 * PAGE, 2 ** 16, 2 ** 21]) {
  onEachWritable(`a page of ${pageSize} bytes is modified and written as a whole`, async (backend, kind) => {
    const written = await writable(backend, kind, 3 * pageSize + 5, { pageSize });
    await whileOpen(written, async ({ segment, bytes, model, contents }) => {
      for (const at of [pageSize + 3 * PAGE - 1, 3 * pageSize + 4]) {
        bytes[at] = 0x3c;
        model[at] = 0x3c;
      }
      assert.deepEqual(segment.dirty(), [
        { offset: pageSize, byteLength: pageSize },
        { offset: 3 * pageSize, byteLength: 5 },
      ]);
      await segment.flush();
      assert.deepEqual(contents(), model);
      assert.deepEqual(segment.dirty(), []);
    });
  });
}

onEachWritable('a segment larger than its budget keeps every write', async (backend, kind) => {
  const pages = 128;
  const options = { resident: 16 * PAGE };
  await whileOpen(await writable(backend, kind, pages * PAGE, options), async ({ segment, bytes, model, contents }) => {
    for (let round = 1; round <= 3; round++) {
      for (let i = 0, page = 3; i < pages; i++, page = (page * 37 + 11) % pages) {
        const at = page * PAGE + ((page * 31 + round) % PAGE);
        assert.equal(bytes[at], model[at], `round ${round}, page ${page}`);
        bytes[at] = round * 17 + page;
        model[at] = round * 17 + page;
      }
      const { residentBytes, stagedBytes } = segment.stats();
      assert.ok(residentBytes + stagedBytes <= 16 * PAGE, `${residentBytes} and ${stagedBytes}`);
    }
    assert.ok(segment.stats().writeBacks > 0);
    assert.deepEqual(segment.read(0, pages * PAGE), model);
    await segment.flush();
    assert.deepEqual(contents(), model);
    assert.deepEqual(segment.dirty(), []);
  });
});

onEachWritable('discard() forgets what was written, and the store is read again', async (backend, kind) => {
  await whileOpen(await writable(backend, kind, 8 * PAGE), async ({ segment, bytes, model, contents }) => {
    for (let page = 0; page < 8; page++) bytes[page * PAGE + 1] = 0x99;
    segment.discard(2 * PAGE - 1, 3 * PAGE); // pages 2 and 3: the whole ones
    assert.deepEqual(segment.dirty(), [
      { offset: 0, byteLength: 2 * PAGE },
      { offset: 4 * PAGE, byteLength: 4 * PAGE },
    ]);
    assert.equal(bytes[2 * PAGE + 1], model[2 * PAGE + 1]);
    assert.equal(bytes[3 * PAGE + 1], model[3 * PAGE + 1]);
    assert.equal(bytes[4 * PAGE + 1], 0x99);
    segment.discard();
    assert.deepEqual(segment.dirty(), []);
    assert.deepEqual(segment.read(0, 8 * PAGE), model);
    await segment.flush();
    assert.deepEqual(contents(), model);
  });
});

onEachWritable('release() and invalidate() leave modified pages as they are', async (backend, kind) => {
  await whileOpen(await writable(backend, kind, 8 * PAGE), ({ segment, bytes }) => {
    for (let page = 0; page < 8; page++) assert.equal(bytes[page * PAGE], bytes[page * PAGE]);
    bytes[2 * PAGE] = 0x42;
    assert.equal(segment.release(), 7 * PAGE);
    segment.invalidate();
    assert.equal(bytes[2 * PAGE], 0x42);
    assert.deepEqual(segment.dirty(), [{ offset: 2 * PAGE, byteLength: PAGE }]);
  });
});

onEachWritable('close() flushes, and close({ discard: true }) does not', async (backend, kind) => {
  const kept = await writable(backend, kind, 4 * PAGE);
  kept.bytes[PAGE] = 0x11;
  kept.model[PAGE] = 0x11;
  await kept.segment.close();
  assert.deepEqual(kept.contents(), kept.model);
  const lost = await writable(backend, kind, 4 * PAGE);
  lost.bytes[PAGE] = 0x11;
  await lost.segment.close({ discard: true });
  assert.deepEqual(lost.contents(), lost.model);
});

onEachWritable('what is written while close() flushes is kept too', async (backend, kind) => {
  const { segment, bytes, model, contents } = await writable(backend, kind, 64 * PAGE);
  bytes.fill(1);
  model.fill(1);
  const closing = segment.close();
  for (let page = 0; page < 64 && bytes.length > 0; page += 3) {
    bytes[page * PAGE] = 2;
    model[page * PAGE] = 2;
    await new Promise((resolve) => setImmediate(resolve));
  }
  await closing;
  const store = contents();
  assert.equal(store[0], 2);
  for (let at = 0; at < store.length; at++) {
    if (store[at] !== model[at]) assert.equal(at % (3 * PAGE), 0, `byte ${at} is ${store[at]}`);
  }
});

onEachWritableBackend(
  'a system call that writes into a page is noted, or gets EFAULT, and is never lost',
  async (backend) => {
    const path = temporaryPath();
    writeFileSync(path, new Uint8Array(4 * PAGE).fill(0xdd));
    const fd = openSync(path, 'r');
    try {
      for (const kind of ['memory', 'custom onWrite'] as const) {
        await whileOpen(await writable(backend, kind, 8 * PAGE), async ({ segment, bytes, model, contents }) => {
          const pin = await segment.pin(2 * PAGE, 2 * PAGE);
          const into = pin.bytes as Uint8Array<ArrayBuffer>;
          if (tracksByFaults(segment) && backend !== 'thread') {
            assert.throws(() => readSync(fd, into, 0, 2 * PAGE, 0), { code: 'EFAULT' });
            assert.deepEqual(segment.dirty(), []);
            bytes[2 * PAGE] = 0; // a first write of the program's own opens the page
            bytes[3 * PAGE] = 0;
          }
          assert.equal(readSync(fd, into, 0, 2 * PAGE, 0), 2 * PAGE);
          model.fill(0xdd, 2 * PAGE, 4 * PAGE);
          assert.deepEqual(segment.dirty(), [{ offset: 2 * PAGE, byteLength: 2 * PAGE }]);
          await segment.flush();
          assert.deepEqual(contents(), model);
          pin.release();
        });
      }
    } finally {
      closeSync(fd);
    }
  },
);

onEachWritableBackend('onWrite() is called once a page, until a flush or a reset', async (backend) => {
  await whileOpen(await writable(backend, 'custom onWrite', 8 * PAGE), async ({ segment, bytes, control }) => {
    const calls = (): number => control.get('onWrite', 'calls');
    bytes[PAGE] = 1;
    bytes[PAGE + 9] = 2;
    assert.equal(calls(), 1);
    assert.equal(control.get('onWrite', 'lastOffset'), PAGE);
    assert.equal(control.get('onWrite', 'lastLength'), PAGE);
    assert.equal(bytes[3 * PAGE], bytes[3 * PAGE], 'read first');
    bytes[3 * PAGE] = 1;
    assert.equal(calls(), 2);
    segment.write(4 * PAGE, new Uint8Array(2 * PAGE));
    assert.equal(calls(), 4);
    await segment.flush();
    bytes[PAGE] = 3;
    assert.equal(calls(), 5);
    segment.resetWriteDetection(PAGE, PAGE);
    bytes[PAGE] = 4;
    assert.equal(calls(), 6);
    assert.deepEqual(segment.dirty(), [{ offset: PAGE, byteLength: PAGE }]);
    segment.resetWriteDetection();
    assert.deepEqual(segment.dirty(), [{ offset: PAGE, byteLength: PAGE }], 'what is modified stays so');
    assert.equal(segment.stats().writeFaults >= 4, true);
  });
});

onEachWritableBackend('a page that is written before it was read is read first, then asked about', async (backend) => {
  for (const kind of ['custom onWrite', 'custom async'] as const) {
    const written = await writable(backend, kind, 8 * PAGE, {}, { onWrite: true });
    await whileOpen(written, ({ segment, bytes, control }) => {
      const writes = [
        (): unknown => {
          bytes[PAGE] = 1;
          return PAGE;
        },
        (): unknown => {
          segment.write(3 * PAGE + 7, new Uint8Array(1));
          return 3 * PAGE;
        },
      ];
      for (const [i, write] of writes.entries()) {
        const page = write();
        for (const call of ['read', 'onWrite'] as const) {
          assert.equal(control.get(call, 'calls'), i + 1);
          assert.equal(control.get(call, 'lastOffset'), page);
        }
        assert.equal(ACCESS[control.get('read', 'access')], 'write');
        assert.ok(control.get('read', 'began') < control.get('read', 'finished'));
        assert.ok(control.get('read', 'finished') < control.get('onWrite', 'began'));
      }
    });
  }
});

onEachWritableBackend('a page that is written before it was read is asked for with access write', async (backend) => {
  await whileOpen(await writable(backend, 'custom sync', 8 * PAGE), ({ segment, bytes, control }) => {
    bytes[PAGE] = 1;
    assert.equal(ACCESS[control.get('read', 'access')], 'write');
    assert.equal(bytes[2 * PAGE], patternBytes(3 * PAGE)[2 * PAGE]);
    assert.equal(ACCESS[control.get('read', 'access')], 'read');
    segment.write(3 * PAGE, new Uint8Array(1));
    assert.equal(ACCESS[control.get('read', 'access')], 'write');
    assert.equal(control.get('read', 'calls'), 3);
  });
});

onEachWritableBackend('read-only segments refuse write() and have nothing to flush', async (backend) => {
  const segment = await map(memory(patternBytes(4 * PAGE)), { backend, name: 'fixed' });
  try {
    assert.equal(segment.writable, false);
    assert.throws(() => segment.write(0, new Uint8Array(1)), {
      name: 'TypeError',
      code: 'ERR_PAGEFAULT_READ_ONLY',
      message: /"fixed" is read-only; map it with writable: true/,
    });
    assert.equal(segment.read(0, 1)[0], patternBytes(1)[0]);
    assert.deepEqual(segment.dirty(), []);
    await segment.flush();
    segment.discard();
    segment.resetWriteDetection();
    assert.equal(segment.stats().storeWrites, 0);
  } finally {
    await segment.close();
  }
});

onEachWritable('a closed segment says so', async (backend, kind) => {
  const { segment } = await writable(backend, kind, 4 * PAGE);
  await segment.close();
  const closed = { name: 'ClosedError', code: 'ERR_PAGEFAULT_CLOSED' };
  assert.throws(() => segment.write(0, new Uint8Array(1)), closed);
  assert.throws(() => segment.dirty(), closed);
  assert.throws(() => segment.discard(), closed);
  assert.throws(() => segment.resetWriteDetection(), closed);
  await assert.rejects(segment.flush(), closed);
  await segment.close({ discard: true });
});

onEachWritable('the numbers of stats() are those of what was written', async (backend, kind) => {
  await whileOpen(await writable(backend, kind, 16 * PAGE), async ({ segment, bytes }) => {
    await segment.load();
    for (const page of [1, 2, 3, 8]) bytes[page * PAGE] = 0xf0;
    await segment.flush();
    const stats = segment.stats();
    assert.equal(stats.flushedPages, 4);
    assert.equal(stats.bytesWritten, 4 * PAGE);
    assert.ok(stats.storeWrites >= 2 && stats.storeWrites <= 4, `${stats.storeWrites} writes`);
    assert.equal(stats.writeBacks, 0);
    assert.equal(stats.writeFailures, 0);
    assert.equal(stats.writeFaults, tracksByFaults(segment) ? 4 : 0);
    assert.equal(typeof stats.forwardedSignals, 'number');
  });
});

test('a file that is made holds zeroes and what was written', async () => {
  const path = temporaryPath();
  const segment = await map(file(path, { create: 5 * PAGE + 1 }), { writable: true });
  assert.equal(segment.byteLength, 5 * PAGE + 1);
  segment.view(Uint8Array)[5 * PAGE] = 7;
  await segment.close();
  const again = await map(file(path, { create: '1MiB' }), { writable: true });
  assert.equal(again.byteLength, 5 * PAGE + 1, 'what is there stays as long as it is');
  assert.equal(again.view(Uint8Array)[5 * PAGE], 7);
  assert.equal(again.view(Uint8Array)[0], 0);
  await again.close();
});
