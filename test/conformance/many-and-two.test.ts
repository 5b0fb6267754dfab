/**
 * What a program does with paged memory from the first day on: many segments, two at once, memory that two of them share, dropping and reading again,
 * every byte in any order, and hearing of writes. On every backend, with stores of the core and in JavaScript.
 */

import assert from 'node:assert/strict';
import { type Backend, map, type Segment, sharedMemory } from 'pagefault';
import { native } from '#dist/native/load.js';
import { patternByte } from '../fixtures/pattern.js';
import { countDescriptors } from '../helpers/proc.js';
import { firstDifference, knownStore, onEachBackend, onEachStore, type StoreKind } from '../helpers/stores.js';
import { onEachWritableBackend, PAGE, whileOpen, writable } from '../helpers/writable.js';

async function read(backend: Backend, kind: StoreKind, pages: number): Promise<Segment> {
  const { ref } = knownStore(kind, pages * PAGE);
  return map(ref, { backend, readahead: 0 });
}

onEachStore('a hundred segments come and go, one by one and all at once, and leave nothing', async (backend, kind) => {
  const { ref, byte } = knownStore(kind, 3 * PAGE);
  await (await map(ref, { backend })).close(); // what stays for good is there
  const before = countDescriptors();
  for (let i = 0; i < 100; i++) {
    const segment = await map(ref, { backend });
    assert.equal(segment.view(Uint8Array)[PAGE + i], byte(PAGE + i));
    await segment.close();
  }
  const segments = await Promise.all(Array.from({ length: 100 }, () => map(ref, { backend })));
  for (const [i, segment] of segments.entries())
    assert.equal(segment.view(Uint8Array)[2 * PAGE + i], byte(2 * PAGE + i));
  await Promise.all(segments.map((segment) => segment.close()));
  assert.equal(native().census().regions, 0);
  assert.equal(countDescriptors(), before);
});

onEachStore('two segments at once have each its own store', async (backend, kind) => {
  const one = await read(backend, kind, 16);
  const { ref } = knownStore('custom sync', 1);
  assert.equal(ref.kind, 'custom');
  const other = await read(backend, 'zero', 16);
  const third = await read(backend, 'custom async', 16);
  try {
    const byte = knownStore(kind, 16 * PAGE).byte;
    for (let page = 0; page < 16; page++) {
      const at = page * PAGE + 100 + page;
      assert.equal(one.view(Uint8Array)[at], byte(at));
      assert.equal(other.view(Uint8Array)[at], 0);
      assert.equal(third.view(Uint8Array)[at], patternByte(at));
    }
    await other.close();
    assert.equal(one.view(Uint8Array)[5], byte(5));
    assert.equal(third.stats().loads, 16);
  } finally {
    for (const segment of [one, other, third]) await segment.close();
  }
});

onEachStore('what is released is read again, five times over', async (backend, kind) => {
  const segment = await read(backend, kind, 32);
  const { byte } = knownStore(kind, 32 * PAGE);
  try {
    for (let round = 1; round <= 5; round++) {
      assert.equal(firstDifference(segment.view(Uint8Array), 0, byte), -1);
      assert.equal(segment.stats().loads, round * 32);
      assert.equal(segment.release(), 32 * PAGE);
      assert.equal(segment.stats().residentBytes, 0);
    }
  } finally {
    await segment.close();
  }
});

onEachStore('every byte is right in any order', async (backend, kind) => {
  const length = 24 * PAGE - 77;
  const { ref, byte } = knownStore(kind, length);
  const segment = await map(ref, { backend, readahead: 0 });
  try {
    const bytes = segment.view(Uint8Array);
    let wrong = 0;
    // 7919 is a prime that does not divide the length, so each byte comes once.
    for (let i = 0, at = 0; i < length; i++, at = (at + 7919) % length) {
      if (bytes[at] !== byte(at)) wrong += 1;
      if (i % 2000 === 0) segment.release();
    }
    assert.equal(wrong, 0);
    assert.ok(segment.stats().loads > 40 * 24);
  } finally {
    await segment.close();
  }
});

for (const kind of ['memory', 'custom sync', 'custom async'] as const) {
  onEachWritableBackend(
    `memory that two segments share is read once and written by both (${kind})`,
    async (backend) => {
      const memory = sharedMemory(4 * PAGE);
      const one = await writable(backend, kind, 16 * PAGE);
      const two = await writable(backend, 'custom sync', 16 * PAGE);
      try {
        one.segment.patch(4 * PAGE, memory);
        two.segment.patch(8 * PAGE, memory);
        assert.equal(one.bytes[4 * PAGE + 9], one.model[4 * PAGE + 9], 'of the store of who touches it first');
        assert.equal(two.bytes[8 * PAGE + 9], one.model[4 * PAGE + 9], 'and the other has it');
        assert.equal(two.segment.stats().bytesRead, 0);
        one.bytes[5 * PAGE] = 0xa5;
        assert.equal(two.bytes[9 * PAGE], 0xa5);
        two.bytes[9 * PAGE + 1] = 0x5a;
        assert.equal(one.bytes[5 * PAGE + 1], 0x5a);
        assert.equal(one.bytes[8 * PAGE], one.model[8 * PAGE], 'behind it each has its own');
        await one.segment.flush();
        assert.equal(one.contents()[5 * PAGE], 0xa5);
      } finally {
        await one.segment.close({ discard: true });
        await two.segment.close({ discard: true });
      }
    },
  );
}

for (const async of [false, true]) {
  onEachBackend(
    `onWrite hears of the first write to each page, and after a reset of the next (async ${async})`,
    async (backend) => {
      await whileOpen(
        await writable(backend, 'custom onWrite', 16 * PAGE, {}, { async }),
        async ({ segment, bytes, model, control, contents }) => {
          const calls = (): number => control.get('onWrite', 'calls');
          for (let round = 1; round <= 3; round++) {
            for (let page = 15; page >= 0; page--) {
              for (const at of [0, 1, PAGE - 1]) {
                bytes[page * PAGE + at] = round + at;
                model[page * PAGE + at] = round + at;
              }
              assert.equal(calls(), (round - 1) * 16 + 16 - page);
              assert.equal(control.get('onWrite', 'lastOffset'), page * PAGE);
            }
            assert.equal(control.get('read', 'calls'), 16, 'each page was read once');
            segment.resetWriteDetection();
          }
          await segment.flush();
          assert.deepEqual(contents(), model);
        },
      );
    },
  );
}
