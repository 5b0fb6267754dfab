/** What a touch sees: on every backend, with every kind of store. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { map, systemPageSize } from 'pagefault';
import { custom, file, memory } from 'pagefault/stores';
import {
  backends,
  firstDifference,
  knownStore,
  onEachBackend,
  onEachStore,
  patternBytes,
  patternFile,
  patternModule,
} from '../helpers/stores.js';

const PAGE = systemPageSize();

test('at least one backend works where the tests run', () => {
  assert.ok(backends.length > 0);
});

onEachStore('every byte that is touched is the byte of the store', async (backend, kind) => {
  const byteLength = 37 * PAGE + 123;
  const { ref, byte } = knownStore(kind, byteLength);
  const segment = await map(ref, { backend });
  try {
    assert.equal(segment.byteLength, byteLength);
    assert.equal(segment.buffer.byteLength, byteLength);
    assert.equal(segment.backend, backend);
    const bytes = segment.view(Uint8Array);
    assert.equal(bytes.length, byteLength);
    // Backwards and with a stride first, so that pages come one by one, then all.
    for (let i = byteLength - 1; i >= 0; i -= 2 * PAGE + 1) assert.equal(bytes[i], byte(i), `byte ${i}`);
    assert.equal(firstDifference(bytes, 0, byte), -1);
  } finally {
    await segment.close();
  }
});

onEachStore('read() copies any range, and only what it needs is loaded', async (backend, kind) => {
  const byteLength = 16 * PAGE;
  const { ref, byte } = knownStore(kind, byteLength);
  const segment = await map(ref, { backend, readahead: 0 });
  try {
    const ranges: [number, number][] = [
      [0, 1],
      [PAGE - 1, 2],
      [3 * PAGE, PAGE],
      [byteLength - 1, 1],
      [byteLength, 0],
    ];
    for (const [offset, length] of ranges) {
      const copy = segment.read(offset, length);
      assert.equal(copy.length, length);
      assert.equal(firstDifference(copy, offset, byte), -1, `at ${offset}`);
      assert.notEqual(copy.buffer, segment.buffer);
    }
    assert.equal(segment.stats().loads, 4);
  } finally {
    await segment.close();
  }
});

for (const pageSize of [PAGE, 4 * PAGE, 2 ** 16, 2 ** 21]) {
  onEachStore(`a page size of ${pageSize} loads whole pages`, async (backend, kind) => {
    const byteLength = 3 * pageSize + 5;
    const { ref, byte } = knownStore(kind, byteLength);
    const segment = await map(ref, { backend, pageSize, readahead: 0 });
    try {
      assert.equal(segment.pageSize, pageSize);
      const bytes = segment.view(Uint8Array);
      assert.equal(bytes[pageSize + 1], byte(pageSize + 1));
      assert.equal(segment.stats().loads, 1);
      for (let i = 0; i < byteLength; i += 511) assert.equal(bytes[i], byte(i));
      assert.equal(bytes[byteLength - 1], byte(byteLength - 1));
      assert.equal(segment.stats().loads, 4);
    } finally {
      await segment.close();
    }
  });
}

onEachStore('a part of the store begins at any offset, aligned or not', async (backend, kind) => {
  const { ref, byte } = knownStore(kind, 10 * PAGE);
  for (const offset of [0, 1, PAGE, 3 * PAGE + 77]) {
    const byteLength = 4 * PAGE + 9;
    const segment = await map(ref, { backend, offset, byteLength });
    try {
      assert.equal(segment.byteLength, byteLength);
      assert.equal(
        firstDifference(segment.view(Uint8Array), 0, (i) => byte(offset + i)),
        -1,
        `offset ${offset}`,
      );
    } finally {
      await segment.close();
    }
  }
});

onEachStore('with pad the rest reads zero and the store is not asked for it', async (backend, kind) => {
  const storeLength = 2 * PAGE + 100;
  const { ref, byte } = knownStore(kind, storeLength);
  const segment = await map(ref, { backend, byteLength: 8 * PAGE, pad: true });
  try {
    const bytes = segment.view(Uint8Array);
    const expected = (i: number): number => (i < storeLength ? byte(i) : 0);
    assert.equal(firstDifference(bytes, 0, expected), -1);
    assert.ok(segment.stats().bytesRead <= storeLength);
  } finally {
    await segment.close();
  }
});

onEachBackend('typed arrays of every kind see the same memory', async (backend) => {
  const bytes = patternBytes(8 * PAGE);
  const segment = await map(memory(bytes), { backend });
  try {
    const floats = segment.view(Float64Array, PAGE);
    assert.equal(floats.length, (7 * PAGE) / 8);
    assert.ok(Object.is(floats[3], new Float64Array(bytes.buffer, PAGE)[3]));
    assert.equal(segment.view(BigUint64Array)[100], new BigUint64Array(bytes.buffer)[100]);
    assert.equal(segment.view(DataView, 5, 16).getUint32(0), new DataView(bytes.buffer, 5).getUint32(0));
    assert.equal(segment.view(Uint8Array, 3, 5).length, 5);
    assert.equal(segment.view(Uint16Array, 8 * PAGE).length, 0);
    assert.equal(segment.view(Uint32Array, 4, 1)[0], new Uint32Array(bytes.buffer)[1]);
    assert.deepEqual(Buffer.from(segment.buffer as ArrayBuffer, 5 * PAGE, 64), Buffer.from(bytes.buffer, 5 * PAGE, 64));
  } finally {
    await segment.close();
  }
});

onEachBackend('a view out of range or out of line is a RangeError with the numbers', async (backend) => {
  const segment = await map(memory(new Uint8Array(100)), { backend });
  try {
    assert.throws(() => segment.view(Float64Array, 4), { name: 'RangeError', message: /byteOffset 4 .* 8 bytes/ });
    assert.throws(() => segment.view(Uint8Array, 101), { name: 'RangeError', message: /101 is past the end .* 100/ });
    assert.throws(() => segment.view(Uint16Array, 0, 51), { name: 'RangeError', message: /51 elements of 2 bytes/ });
    assert.throws(() => segment.view(Uint8Array, -1), { name: 'RangeError', message: /not -1/ });
    assert.throws(() => segment.view({} as never), { name: 'TypeError', message: /typed array/ });
    assert.throws(() => segment.read(50, 51), { name: 'RangeError', message: /51 bytes from offset 50 .* 100/ });
    assert.throws(() => segment.read(-1, 1), { name: 'RangeError' });
    assert.throws(() => segment.release(101), { name: 'RangeError' });
    assert.throws(() => segment.read(undefined as never, 1), { name: 'TypeError', message: /offset must be a number/ });
    assert.equal(segment.view(Float64Array).length, 12);
  } finally {
    await segment.close();
  }
});

onEachBackend('a file behind a reference with offset and length is that part of it', async (backend) => {
  const path = patternFile(10 * PAGE);
  const segment = await map(file(path, { offset: PAGE + 1, byteLength: 5 * PAGE }), { backend, offset: 7 });
  try {
    assert.equal(segment.byteLength, 5 * PAGE - 7);
    const bytes = patternBytes(10 * PAGE).subarray(PAGE + 8, 6 * PAGE + 1);
    assert.deepEqual(segment.read(0, segment.byteLength), bytes);
  } finally {
    await segment.close();
  }
});

onEachBackend("a custom store's preferred page size is taken unless the caller asks for another", async (backend) => {
  const ref = custom(patternModule, { byteLength: 2 ** 20, pageSize: 2 ** 16 });
  for (const [asked, expected] of [
    [undefined, 2 ** 16],
    [PAGE, PAGE],
  ] as const) {
    const segment = await map(ref, asked === undefined ? { backend } : { backend, pageSize: asked });
    assert.equal(segment.pageSize, expected);
    await segment.close();
  }
});

onEachBackend('bytes of a SharedArrayBuffer are used in place, others are copied', async (backend) => {
  const shared = new Uint8Array(new SharedArrayBuffer(2 * PAGE)).fill(1);
  const plain = new Uint8Array(2 * PAGE).fill(1);
  const segments = [
    await map(memory(shared), { backend, readahead: 0 }),
    await map(memory(plain), { backend, readahead: 0 }),
  ];
  shared.fill(2);
  plain.fill(2);
  assert.deepEqual(
    segments.map((segment) => segment.view(Uint8Array)[PAGE]),
    [2, 1],
  );
  for (const segment of segments) await segment.close();
});

onEachBackend('read-ahead follows a sequential reader and stays out of the way of a random one', async (backend) => {
  const pages = 512;
  const path = patternFile(pages * PAGE);
  const sequential = await map(file(path), { backend });
  const random = await map(file(path), { backend });
  let sum = 0;
  for (let i = 0; i < pages; i++) sum += sequential.view(Uint8Array)[i * PAGE] ?? 0;
  assert.ok(sum > 0);
  const bytes = random.view(Uint8Array);
  const touched = new Set<number>();
  for (let i = 0, page = 7; i < 64; i++, page = (page * 181 + 59) % pages) {
    touched.add(page);
    sum += bytes[page * PAGE] ?? 0;
  }
  assert.ok(sequential.stats().faults < pages / 4, `${sequential.stats().faults} faults`);
  assert.ok(sequential.stats().readaheadHits > 0);
  assert.ok(random.stats().loads <= touched.size * 1.2, `${random.stats().loads} loads of ${touched.size} pages`);
  await sequential.close();
  await random.close();
});
