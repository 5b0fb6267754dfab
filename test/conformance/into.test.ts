/** Memory that exists, paged: ArrayBuffers, SharedArrayBuffers and WebAssembly memories, on every backend. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { receiveMessageOnPort, Worker } from 'node:worker_threads';
import { map, open, PagefaultError, systemPageSize } from 'pagefault';
import { Mapping, Memfd } from 'pagefault/kernel';
import { custom, file, memory, zero } from 'pagefault/stores';
import { native } from '#dist/native/load.js';
import { patternByte } from '../fixtures/pattern.js';
import { has64Bits, instantiate, isTrap, makeMemory, makeMemory64, WASM_PAGE } from '../fixtures/wasm.js';
import { bufferOf, given, OLD, onEachMemory } from '../helpers/memories.js';
import {
  backends,
  firstDifference,
  onEachBackend,
  patternBytes,
  patternFile,
  patternModule,
} from '../helpers/stores.js';

const PAGE = systemPageSize();
/** What a touch gives once its segment is closed. */
async function touchOf(bytes: Uint8Array, offset: number): Promise<unknown> {
  const witness = await map(memory(new Uint8Array(1)));
  try {
    return witness.attempt(() => bytes[offset]);
  } catch (error) {
    return (error as { code?: string }).code;
  } finally {
    await witness.close();
  }
}

onEachMemory('the whole pages of memory that exists are paged, and nothing else of it', async (backend, kind) => {
  const byteLength = 40 * PAGE + 100;
  const into = given(kind, byteLength);
  const buffer = bufferOf(into);
  const segment = await map(file(patternFile(byteLength)), { backend, into, readahead: 0 });
  assert.equal(segment.buffer, buffer);
  assert.equal(segment.byteLength, byteLength);
  assert.equal(segment.address % BigInt(PAGE), 0n);
  assert.equal(segment.backend, backend);
  const view = segment.view(Uint8Array);
  assert.equal(view.byteOffset, segment.bufferOffset);
  assert.equal(view.length, byteLength);
  assert.equal(segment.stats().loads, 0);
  assert.equal(view[3 * PAGE], patternByte(3 * PAGE));
  assert.equal(segment.stats().loads, 1);
  assert.equal(firstDifference(view, 0, patternByte), -1);
  assert.deepEqual(segment.read(5, 9000), patternBytes(9005).subarray(5));
  const words = segment.view(Uint32Array, 8, 4);
  assert.equal(words.byteOffset, segment.bufferOffset + 8);
  const all = new Uint8Array(buffer);
  const end = segment.bufferOffset + 41 * PAGE;
  assert.ok(all.subarray(0, segment.bufferOffset).every((byte) => byte === OLD));
  assert.ok(all.subarray(end).every((byte) => byte === OLD));
  assert.ok(
    all.subarray(end - (PAGE - 100), end).every((byte) => byte === 0),
    'the rest of the last page reads zero',
  );
  const pin = await segment.pin(PAGE, 5000);
  assert.deepEqual(Uint8Array.from(pin.bytes), patternBytes(PAGE + 5000).subarray(PAGE));
  pin.release();
  await segment.close();
  assert.equal(bufferOf(into), buffer, 'nothing is detached');
  assert.equal(await touchOf(all, segment.bufferOffset + 7 * PAGE), 'ERR_PAGEFAULT_CLOSED');
  assert.equal(all[end], OLD, 'what was not paged is still there');
});

onEachMemory('what evicts, invalidates and fails works in memory that exists', async (backend, kind) => {
  const into = given(kind, 64 * PAGE);
  const store = custom(patternModule, { byteLength: 64 * PAGE, answer: 'async' });
  const segment = await map(store, { backend, into, resident: 8 * PAGE });
  try {
    for (let round = 0; round < 3; round++) assert.equal(firstDifference(segment.view(Uint8Array), 0, patternByte), -1);
    assert.ok(segment.stats().evictions > 0);
    assert.ok(segment.stats().residentBytes <= 8 * PAGE);
    segment.invalidate();
    assert.equal(segment.stats().residentBytes, 0);
    await segment.load(0, 4 * PAGE);
    assert.equal(segment.release(), 4 * PAGE);
  } finally {
    await segment.close();
  }
});

onEachMemory('memory is paged by one segment at a time', async (backend, kind) => {
  const into = given(kind, 8 * PAGE);
  const segment = await map(zero(8 * PAGE), { backend, into, name: 'first' });
  for (const [again, byteLength] of [
    [into, PAGE],
    [bufferOf(into), 8 * PAGE],
  ] as const) {
    // These want the WebAssembly.Memory itself, to see that it cannot grow.
    if (again !== into && backend !== 'signal' && kind.endsWith('Memory')) continue;
    await assert.rejects(map(zero(byteLength), { backend, into: again, name: 'second' }), (error: unknown) => {
      assert.ok(error instanceof PagefaultError);
      assert.equal(error.code, 'ERR_PAGEFAULT_SEGMENT_OVERLAP');
      assert.match(error.message, /segment "first" pages this memory already; close that first/);
      return true;
    });
  }
  assert.equal(segment.view(Uint8Array)[PAGE], 0, 'the first one is unharmed');
  await segment.close();
});

onEachMemory(
  'closed memory can be paged again, by any store and backend, shorter and longer',
  async (backend, kind) => {
    const into = given(kind, 32 * PAGE);
    const bytes = new Uint8Array(bufferOf(into));
    for (const [round, pages] of [32, 8, 1, 20, 32].entries()) {
      for (const other of backends) {
        const store = custom(patternModule, { byteLength: pages * PAGE, seed: round + 1 });
        const segment = await map(store, { backend: round % 2 === 0 ? backend : other, into });
        const view = segment.view(Uint8Array);
        assert.equal(
          firstDifference(view, 0, (offset) => patternByte(offset, round + 1)),
          -1,
        );
        const from = segment.bufferOffset;
        await segment.close();
        // A service thread that is still inside keeps the bytes a moment longer; never are they zeroes.
        for (
          let seen = await touchOf(bytes, from);
          seen !== 'ERR_PAGEFAULT_CLOSED';
          seen = await touchOf(bytes, from)
        ) {
          assert.equal(seen, patternByte(0, round + 1));
          await sleep(10);
        }
        assert.equal(await touchOf(bytes, from + 31 * PAGE), 'ERR_PAGEFAULT_CLOSED', 'what the last one did not need');
      }
    }
  },
);

onEachMemory('the same memory is paged a thousand times', async (backend, kind) => {
  const into = given(kind, 4 * PAGE);
  const before = native().census();
  for (let i = 0; i < 1000; i++) {
    const segment = await map(i % 2 === 0 ? memory(patternBytes(4 * PAGE)) : zero(3 * PAGE), { backend, into });
    assert.equal(segment.view(Uint8Array)[2 * PAGE + 1], i % 2 === 0 ? patternByte(2 * PAGE + 1) : 0);
    await segment.close();
  }
  const now = native().census();
  assert.ok(now.regions <= before.regions + 2, `regions: ${before.regions} → ${now.regions}`);
  assert.equal(now.descriptors, before.descriptors);
});

onEachBackend('shared memory that exists is opened by other threads', async (backend) => {
  for (const kind of ['SharedArrayBuffer', 'shared WebAssembly.Memory'] as const) {
    const into = given(kind, 100 * PAGE);
    const segment = await map(memory(patternBytes(100 * PAGE)), { backend, into, readahead: 0 });
    const here = await open(structuredClone(segment.handle));
    assert.equal(here.bufferOffset, segment.bufferOffset);
    assert.equal(here.view(Uint8Array)[50 * PAGE], patternByte(50 * PAGE));
    await here.close();
    const opener = new URL('../fixtures/opener.js', import.meta.url);
    const workerData = { handle: segment.handle, from: 0, stride: 1, leave: 'close' };
    const worker = new Worker(opener, { workerData });
    const exit = once(worker, 'exit');
    const [answer] = await once(worker, 'message');
    assert.deepEqual({ wrong: answer.wrong, length: answer.length }, { wrong: 0, length: 100 * PAGE });
    await exit;
    assert.equal(segment.stats().loads, 100);
    await segment.close();
  }
});

onEachBackend('WebAssembly reads paged memory, and still traps outside of it', async (backend) => {
  for (const shared of [false, true]) {
    const into = makeMemory(4, 4, shared);
    const { peek, poke, sum } = instantiate(into);
    const segment = await map(memory(patternBytes(3 * WASM_PAGE)), { backend, into, readahead: 0 });
    for (const address of [0, 5 * PAGE + 3, 3 * WASM_PAGE - 1]) assert.equal(peek(address), patternByte(address));
    let expected = 0;
    for (let i = 0; i < 3 * WASM_PAGE; i++) expected += patternByte(i);
    assert.equal(sum(0, 3 * WASM_PAGE), expected);
    assert.equal(segment.stats().loads, (3 * WASM_PAGE) / PAGE);
    for (const address of [4 * WASM_PAGE, 5 * WASM_PAGE, 2 ** 31 - 1, -1]) {
      assert.throws(() => peek(address), isTrap, `read at ${address}`);
      assert.throws(() => poke(address, 1), isTrap, `write at ${address}`);
    }
    poke(3 * WASM_PAGE + 5, 7);
    assert.equal(peek(3 * WASM_PAGE + 5), 7, 'what lies behind the segment is ordinary memory');
    await segment.close();
  }
});

const grows = backends.includes('signal');

for (const shared of [false, true]) {
  const what = shared ? 'a shared WebAssembly.Memory' : 'a WebAssembly.Memory';
  test(`${what} is paged where it grows, by JavaScript and by WebAssembly [signal]`, async (t) => {
    if (!grows) return t.skip('no userfaultfd here');
    const byteLength = 4 * WASM_PAGE + 100;
    for (const maximum of shared ? [5, 100, 65_536] : [5, 100, undefined]) {
      const into = makeMemory(1, maximum, shared);
      const { peek, poke, grow, size } = instantiate(into);
      const segment = await map(memory(patternBytes(byteLength)), { backend: 'signal', into });
      const { address } = segment;
      for (let pages = 1; pages <= 5; pages++) {
        const exists = Math.min(byteLength, pages * WASM_PAGE);
        assert.equal(segment.byteLength, byteLength);
        assert.equal(segment.address, address);
        assert.equal(segment.buffer, into.buffer);
        const view = segment.view(Uint8Array);
        assert.equal(view.length, exists);
        assert.equal(firstDifference(view, 0, patternByte), -1);
        assert.equal(peek(exists - 1), patternByte(exists - 1));
        await segment.load();
        assert.equal(segment.stats().loads, Math.ceil(exists / PAGE), 'nothing is loaded that does not exist');
        assert.deepEqual(segment.read(exists - 10, 10), patternBytes(exists).subarray(-10));
        for (const outside of [pages * WASM_PAGE, 5 * WASM_PAGE, 2 ** 31 - 1]) {
          assert.throws(() => peek(outside), isTrap);
          assert.throws(() => poke(outside, 1), isTrap);
        }
        if (pages === 5) break;
        const missing = {
          name: 'RangeError',
          code: 'ERR_PAGEFAULT_OUT_OF_BOUNDS',
          message: /has \d+ bytes .* grow\(\)/,
        };
        assert.throws(() => segment.read(exists - 1, 2), missing);
        await assert.rejects(segment.load(0, exists + 1), missing);
        await assert.rejects(segment.pin(exists, 1), missing);
        assert.throws(() => segment.view(Uint8Array, 0, exists + 1), { code: 'ERR_PAGEFAULT_OUT_OF_BOUNDS' });
        assert.equal(pages % 2 === 0 ? grow(1) : into.grow(1), pages);
        assert.equal(size(), pages + 1);
      }
      if (maximum !== 5) {
        assert.equal(grow(2), 5);
        assert.equal(peek(5 * WASM_PAGE), 0, 'pages behind the segment are ordinary');
        poke(6 * WASM_PAGE, 9);
        assert.equal(new Uint8Array(into.buffer)[6 * WASM_PAGE], 9);
      }
      assert.equal(peek(byteLength), 0, 'the last page of the segment ends with zeroes');
      await segment.close();
      assert.equal(await touchOf(new Uint8Array(into.buffer), PAGE), 'ERR_PAGEFAULT_CLOSED');
    }
  });
}

test('memory grows past the end of the store where pad allows it [signal]', async (t) => {
  if (!grows) return t.skip('no userfaultfd here');
  const into = makeMemory(1);
  const { peek, grow } = instantiate(into);
  const segment = await map(memory(patternBytes(100)), {
    backend: 'signal',
    into,
    byteLength: 3 * WASM_PAGE,
    pad: true,
  });
  assert.equal(grow(3), 1);
  assert.deepEqual([99, 100, WASM_PAGE, 3 * WASM_PAGE].map(peek), [patternByte(99), 0, 0, 0]);
  assert.equal(segment.stats().loads, 2, 'and these pages count, up to the end of the segment');
  await segment.close();
});

test('read-ahead and eviction stop where the memory ends by now [signal]', async (t) => {
  if (!grows) return t.skip('no userfaultfd here');
  const into = makeMemory(1);
  const store = custom(patternModule, { byteLength: 8 * WASM_PAGE, answer: 'async' });
  const segment = await map(store, { backend: 'signal', into, readahead: '1MiB', resident: '256KiB' });
  for (let pages = 1; pages <= 8; pages++) {
    assert.equal(firstDifference(segment.view(Uint8Array), 0, patternByte), -1);
    const states = segment.pages();
    assert.ok(states.subarray((pages * WASM_PAGE) / PAGE).every((state) => state === 0));
    if (pages < 8) into.grow(1);
  }
  assert.ok(segment.stats().evictions > 0);
  await segment.close();
});

onEachBackend(
  'an ArrayBuffer that is paged cannot be transferred, and one that a message took away is paged still',
  async (backend) => {
    const into = new ArrayBuffer(10 * PAGE);
    const segment = await map(memory(patternBytes(8 * PAGE)), { backend, into });
    const { transfer, transferToFixedLength } = into as unknown as Record<string, (byteLength?: number) => ArrayBuffer>;
    for (const method of [transfer, transferToFixedLength]) {
      assert.throws(() => method?.call(into, 20 * PAGE), {
        code: 'ERR_PAGEFAULT_UNSUPPORTED',
        message: /cannot be transferred/,
      });
    }
    assert.equal(segment.view(Uint8Array)[PAGE], patternByte(PAGE));
    // A message takes the buffer away, but the memory stays what it is.
    const { port1, port2 } = new MessageChannel();
    port1.postMessage(into, [into]);
    const moved = new Uint8Array(receiveMessageOnPort(port2)?.message as ArrayBuffer);
    port1.close();
    assert.throws(() => segment.view(Uint8Array), { code: 'ERR_PAGEFAULT_NULL_BASE', message: /was detached/ });
    assert.equal(moved[segment.bufferOffset + 3 * PAGE], patternByte(3 * PAGE));
    assert.deepEqual(segment.read(0, 8 * PAGE), patternBytes(8 * PAGE));
    await segment.close();
    assert.equal(await touchOf(moved, segment.bufferOffset + 3 * PAGE), 'ERR_PAGEFAULT_CLOSED');
  },
);

onEachBackend("a Mapping is paged, and its memory is its owner's again when the segment is closed", async (backend) => {
  const kinds = [
    () => Mapping.anonymous(20 * PAGE),
    () => Mapping.memfd(Memfd.create('into', { byteLength: 20 * PAGE })),
    () => Mapping.file(patternFile(20 * PAGE)),
    () => Mapping.heap(20 * PAGE),
  ];
  for (const make of kinds) {
    const before = native().census().regions;
    const mapping = make();
    const segment = await map(memory(patternBytes(12 * PAGE)), {
      backend,
      into: mapping.buffer,
      name: 'over a mapping',
    });
    assert.equal(segment.address, mapping.address);
    assert.equal(firstDifference(segment.view(Uint8Array), 0, patternByte), -1);
    assert.throws(() => mapping.unmap(), {
      code: 'ERR_PAGEFAULT_SEGMENT_OVERLAP',
      message: /unmap: segment "over a mapping" pages this memory; close it first/,
    });
    assert.equal(segment.view(Uint8Array)[PAGE], patternByte(PAGE));
    await segment.close();
    mapping.unmap();
    assert.equal(mapping.unmapped, true);
    assert.equal(native().census().regions, before);
  }
});

test('memory of 64-bit WebAssembly is paged past 4 GiB, where it grows [signal]', async (t) => {
  if (!grows || !has64Bits) return t.skip('needs userfaultfd and Node.js 24');
  const far = 5 * 2 ** 30;
  const into = makeMemory64(1n, BigInt(6 * 2 ** 30) / BigInt(WASM_PAGE));
  const segment = await map(zero(far), { backend: 'signal', into: into as never, resident: '1MiB' });
  into.grow(BigInt((5 * 2 ** 30) / WASM_PAGE - 1));
  const bytes = segment.view(Uint8Array);
  assert.equal(bytes.length, far);
  assert.deepEqual([bytes[0], bytes[far - 1], bytes[2 ** 32 + 5]], [0, 0, 0]);
  assert.equal(segment.stats().loads, 3);
  await segment.close();
});
