/** What the option `into` refuses: one sentence with a code each, and nothing has happened to the memory. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { type MapOptions, map, systemPageSize } from 'pagefault';
import { custom, memory, zero } from 'pagefault/stores';
import { native } from '#dist/native/load.js';
import { canReach } from '#dist/segment/wasm-memory.js';
import { GrowableBuffer, makeMemory, ResizableBuffer, WASM_PAGE } from '../fixtures/wasm.js';
import { run } from '../helpers/run.js';
import { backends, onEachBackend, patternModule } from '../helpers/stores.js';

const PAGE = systemPageSize();

async function refuses(
  options: MapOptions,
  name: string,
  code: string,
  message: RegExp,
  byteLength = PAGE,
): Promise<void> {
  const { into } = options as { into?: unknown };
  const length = (into as { byteLength?: number } | undefined)?.byteLength;
  await assert.rejects(map(zero(byteLength), options), { name, code: `ERR_PAGEFAULT_${code}`, message });
  assert.equal((into as { byteLength?: number } | undefined)?.byteLength, length);
}

test('what is no memory is refused', async () => {
  for (const wrong of [1, 'memory', {}, { buffer: new ArrayBuffer(8), grow() {} }, null, () => 0]) {
    await refuses({ into: wrong as never }, 'TypeError', 'INVALID_ARGUMENT', /into must be an ArrayBuffer, .*, not /);
  }
  for (const view of [new Uint8Array(PAGE), Buffer.alloc(PAGE), new DataView(new ArrayBuffer(PAGE))]) {
    await refuses({ into: view as never }, 'TypeError', 'INVALID_ARGUMENT', /not a \w+; pass its buffer/);
  }
});

test('a detached ArrayBuffer has no memory', async () => {
  const into = new ArrayBuffer(4 * PAGE);
  structuredClone(into, { transfer: [into] });
  await refuses({ into }, 'TypeError', 'NULL_BASE', /into is detached, so it has no memory/);
  const grown = makeMemory(1);
  const { buffer } = grown;
  grown.grow(1);
  await refuses({ into: buffer }, 'TypeError', 'NULL_BASE', /detached/);
});

test('an empty buffer has no pages', async () => {
  for (const into of [new ArrayBuffer(0), new SharedArrayBuffer(0)]) {
    await refuses({ into }, 'RangeError', 'ZERO_SIZE', /into is empty/);
  }
  await refuses({ into: makeMemory(0) }, 'RangeError', 'ZERO_SIZE', /has no pages yet; call its grow\(\) first/);
});

/** Hardly any buffer that malloc gave begins at a page; now and then one does. */
function unaligned<B extends ArrayBufferLike>(make: () => B): B {
  const made: B[] = [];
  for (;;) {
    const buffer = make();
    if (native().memoryLook(new Uint8Array(buffer), new Float64Array(4)) % BigInt(PAGE) !== 0n) return buffer;
    made.push(buffer);
  }
}

test('a buffer that does not begin at a page holds a page less, and says so', async () => {
  const message =
    /whole pages, and 16384 are needed; make it a page longer, or take other memory: a WebAssembly.Memory's/;
  for (const into of [unaligned(() => new ArrayBuffer(16_384)), unaligned(() => new SharedArrayBuffer(16_384))]) {
    await refuses({ into }, 'RangeError', 'BASE_NOT_ALIGNED', message, 16_384);
  }
  await refuses(
    { into: unaligned(() => new ArrayBuffer(PAGE)) },
    'RangeError',
    'BASE_NOT_ALIGNED',
    /only 0 of them are whole pages/,
  );
});

test('a buffer that ends within the last page cannot hold it', async () => {
  const message = /its last page would need 12288: .*; make it 12288 bytes long/;
  const into = new GrowableBuffer(10_000, { maxByteLength: 10_000 });
  await refuses({ into }, 'RangeError', 'SIZE_NOT_ALIGNED', message, 10_000);
  await refuses({ into: new ArrayBuffer(100) }, 'RangeError', 'SIZE_NOT_ALIGNED', /last page would need 4096/, 100);
});

test('a segment that is longer than the memory is refused with both numbers', async () => {
  const message = /the segment has 40960 bytes, and into has 20480; byteLength: \d+ would show a part/;
  await refuses({ into: new ArrayBuffer(5 * PAGE) }, 'RangeError', 'OUT_OF_BOUNDS', message, 10 * PAGE);
  const large = 3 * WASM_PAGE;
  const growth = /more than the maximum of this WebAssembly.Memory, which has 65536 now/;
  await refuses({ into: makeMemory(1, 2) }, 'RangeError', 'OUT_OF_BOUNDS', growth, large);
  await refuses({ into: makeMemory(1, 2, true) }, 'RangeError', 'OUT_OF_BOUNDS', growth, large);
  await refuses({ into: makeMemory(1) }, 'RangeError', 'OUT_OF_BOUNDS', growth, 2 ** 32 + 1);
});

test('pages larger than those of WebAssembly are not available in its memory', async () => {
  const into = makeMemory(32, 32);
  const pageSize = 2 * WASM_PAGE;
  await refuses({ into, pageSize }, 'RangeError', 'PAGE_SIZE_UNAVAILABLE', /at most 65536 in a WebAssembly.Memory/);
  await refuses({ into, pageSize: 512 }, 'RangeError', 'PAGE_SIZE_UNAVAILABLE', /at least the system's page size/);
  const store = custom(patternModule, { byteLength: 2 ** 20, pageSize });
  const segment = await map(store, { into });
  assert.equal(segment.pageSize, WASM_PAGE, 'what the store only prefers gives way');
  await segment.close();
});

test('a buffer that may get shorter is refused', async () => {
  const into = new ResizableBuffer(PAGE, { maxByteLength: 4 * PAGE });
  await refuses({ into }, 'UnsupportedError', 'UNSUPPORTED', /must not be a resizable ArrayBuffer: .* growable/);
});

test('shared: true and memory that is not shared do not go together', async () => {
  await refuses({ into: makeMemory(1), shared: true }, 'TypeError', 'INVALID_ARGUMENT', /into is not/);
  const segment = await map(zero(1), { into: new SharedArrayBuffer(3 * PAGE), shared: true });
  await segment.close();
});

test('memory that may grow is refused where growing would open its pages [mprotect]', async (t) => {
  if (!backends.includes('mprotect')) return t.skip('mprotect does not work here');
  const backend = 'mprotect';
  for (const into of [makeMemory(1), makeMemory(1, 2), makeMemory(1, 2, true)]) {
    const message = /may grow; make it with a maximum of the 1 pages/;
    await refuses({ into, backend }, 'UnsupportedError', 'UNSUPPORTED', message);
    const { buffer } = into;
    await refuses({ into: buffer, backend }, 'UnsupportedError', 'UNSUPPORTED', /pass the memory itself/);
  }
  const into = new GrowableBuffer(PAGE, { maxByteLength: 2 * PAGE });
  await refuses({ into, backend }, 'UnsupportedError', 'UNSUPPORTED', /maxByteLength of its byteLength/);
});

onEachBackend('memory that failed a first time can be given again', async (backend) => {
  const into = makeMemory(2, 2);
  new Uint8Array(into.buffer).fill(7);
  const budget = { resident: 1 };
  await assert.rejects(map(zero(PAGE), { backend, into, ...budget }), /resident must hold at least one page/);
  assert.equal(new Uint8Array(into.buffer)[0], 7);
  const segment = await map(memory(new Uint8Array([3])), { backend, into });
  assert.equal(segment.view(Uint8Array)[0], 3);
  await segment.close();
});

test('how far a WebAssembly.Memory can grow is found out without growing it', () => {
  for (const shared of [false, true]) {
    const memory = makeMemory(2, 9, shared);
    for (let pages = 1; pages < 12; pages++) assert.equal(canReach(memory, pages), pages <= 9, `${pages}`);
    assert.equal(memory.buffer.byteLength, 2 * WASM_PAGE);
  }
  assert.ok(canReach(makeMemory(1), 65_536));
  assert.ok(!canReach(makeMemory(1), 65_537));
  assert.ok(!canReach(makeMemory(0, 0), 1));
});

test('what the operating system refuses is told with its errno', async () => {
  const program = `
    import { openSync } from 'node:fs';
    import { map } from 'pagefault';
    import { zero } from 'pagefault/stores';
    await (await map(zero(1))).close();
    try { for (;;) openSync('/dev/null'); } catch {}
    await map(zero(1), { into: new ArrayBuffer(3 * 4096) }).catch((error) => {
      console.log(error.name, error.code, error.errno, error.syscall);
    });`;
  const shell = 'ulimit -n 200; exec "$0" --input-type=module -e "$1"';
  const { stdout, stderr } = await run('sh', ['-c', shell, process.execPath, program], { timeoutMs: 30_000 });
  assert.equal(stdout, 'SystemError ERR_PAGEFAULT_SYSTEM 24 open\n', stderr);
});

test('where the runtime hides its backing stores, memory is kept for good, on the main thread only', async () => {
  const program = `
    import { isMainThread, Worker } from 'node:worker_threads';
    import { map } from 'pagefault';
    import { memory } from 'pagefault/stores';
    const work = async () => {
      const segment = await map(memory(new Uint8Array(9000).fill(7)), { into: new ArrayBuffer(20_000) });
      console.log(segment.view(Uint8Array)[8000]);
      await segment.close();
    };
    await work();
    const text = "import('pagefault').then(({ map }) => import('pagefault/stores').then(({ zero }) =>"
      + " map(zero(1), { into: new ArrayBuffer(9000) }))).catch((error) => console.log(error.code, error.message))";
    new Worker(text, { eval: true });`;
  const env = { ...process.env, PAGEFAULT_WITHOUT: 'backing_store' };
  const args = ['--input-type=module', '-e', program];
  const { stdout, stderr } = await run(process.execPath, args, { timeoutMs: 30_000, env });
  assert.match(
    stdout,
    /^7\nERR_PAGEFAULT_UNSUPPORTED map\(\): this runtime gives no way .* on the main thread only\n$/,
    stderr,
  );
});
