import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import {
  Mapping,
  Memfd,
  PageScanError,
  type PageSpan,
  pageSize,
  type Range,
  scanPages,
  scanWritten,
  Uffd,
} from 'pagefault/kernel';
import { breakHasRoom, countDescriptors } from '../helpers/proc.js';

const page = pageSize();
const deadline = { timeout: 60_000 };

/** Why writes cannot be tracked here, or false. */
function missing(): string | false {
  try {
    Uffd.open({ userModeOnly: true, features: ['wp-async'] }).close();
    scanPages({ address: 0n, byteLength: page });
    return false;
  } catch (error) {
    return `needs wp-async and PAGEMAP_SCAN (Linux 6.7): ${(error as Error).message}`;
  }
}
const skip = missing();

function tracked(range: Range): Uffd {
  const uffd = Uffd.open({ userModeOnly: true, features: ['wp-async'] });
  uffd.register(range, 'write-protect');
  uffd.writeProtect(range);
  return uffd;
}

/** [first page, pages] of each span. */
function pagesOf(range: Range, spans: readonly PageSpan[]): [number, number][] {
  return spans.map((span) => [Number(span.address - range.address) / page, span.byteLength / page]);
}

function smallPages(pages: number): Mapping {
  const memory = Mapping.anonymous(pages * page);
  memory.advise('nohugepage');
  return memory;
}

test('what was written is told until a scan arms it again', { ...deadline, skip }, () => {
  const before = countDescriptors();
  const memory = smallPages(32);
  const bytes = new Uint8Array(memory.buffer);
  for (let i = 0; i < 16; i++) bytes[i * page] = 1;
  const uffd = tracked(memory);
  assert.deepEqual(scanWritten(memory), []);
  bytes[3 * page] = 2;
  bytes[4 * page + 9] = 2;
  bytes[20 * page] = 2;
  const written = [
    [3, 2],
    [20, 1],
  ];
  assert.deepEqual(pagesOf(memory, scanWritten(memory)), written);
  assert.deepEqual(pagesOf(memory, scanWritten(memory)), written, 'a look changes nothing');
  assert.deepEqual(pagesOf(memory, scanWritten(memory, { rearm: true })), written);
  assert.deepEqual(scanWritten(memory, { rearm: true }), []);
  bytes[3 * page] = 3;
  assert.deepEqual(pagesOf(memory, scanWritten(memory, { rearm: true })), [[3, 1]]);
  assert.equal(bytes[20 * page], 2);
  memory.unmap();
  uffd.close();
  assert.equal(countDescriptors(), before);
});

test('pages that were only read, dropped or never touched are not written', { ...deadline, skip }, () => {
  const memory = smallPages(16);
  const bytes = new Uint8Array(memory.buffer).fill(1, 0, 4 * page);
  const uffd = tracked(memory);
  assert.equal(bytes[8 * page], 0);
  bytes[page] = 2;
  bytes[2 * page] = 2;
  memory.advise('dontneed', 2 * page, page);
  assert.deepEqual(pagesOf(memory, scanWritten(memory)), [[1, 1]]);
  assert.equal(bytes[2 * page], 0, 'and read after it was dropped');
  assert.deepEqual(pagesOf(memory, scanWritten(memory)), [[1, 1]]);
  const naive = pagesOf(memory, scanPages(memory, { all: ['written'] }));
  assert.notDeepEqual(naive, [[1, 1]], 'the mask of "written" alone says more than is true');
  memory.unmap();
  uffd.close();
});

test('a scan that fails on its way tells what it has re-armed', { ...deadline, skip }, () => {
  const memory = smallPages(600);
  const bytes = new Uint8Array(memory.buffer).fill(1);
  const armed = { address: memory.address, byteLength: 590 * page };
  const uffd = tracked(armed);
  const written = Array.from({ length: 290 }, (_, i) => 2 * i);
  for (const i of written) bytes[i * page] = 2;
  assert.throws(
    () => scanWritten(memory, { rearm: true }),
    (error) => {
      assert.ok(error instanceof PageScanError);
      assert.equal(error.errno, 1);
      const told = pagesOf(memory, error.spans).map(([at]) => at);
      assert.deepEqual(told, written);
      return true;
    },
  );
  assert.deepEqual(scanWritten(armed, { rearm: true }), [], 'nothing else knows of them');
  memory.unmap();
  uffd.close();
});

test('a limit arms no more than it tells', { ...deadline, skip }, () => {
  const memory = smallPages(1024);
  const bytes = new Uint8Array(memory.buffer).fill(1);
  const uffd = tracked(memory);
  for (let i = 0; i < 1024; i += 2) bytes[i * page] = 2;
  const filter = { all: ['written', 'present'], report: [], rearm: true, limit: 300 } as const;
  assert.equal(scanPages(memory, filter).length, 300);
  assert.equal(scanPages(memory, filter).length, 212);
  assert.equal(scanPages(memory, filter).length, 0);
  memory.unmap();
  uffd.close();
});

test('files and memory objects are tracked for writes through the mapping', { ...deadline, skip }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-scan-'));
  const path = join(folder, 'file');
  writeFileSync(path, new Uint8Array(8 * page).fill(1));
  const memfd = Memfd.create('tracked', { byteLength: 8 * page });
  memfd.write(0, new Uint8Array(8 * page).fill(1));
  for (const memory of [Mapping.memfd(memfd), Mapping.file(path, { protection: 'read-write' })]) {
    const bytes = new Uint8Array(memory.buffer);
    memory.advise('populate-read');
    const uffd = tracked(memory);
    assert.deepEqual(scanWritten(memory, { rearm: true }), [], memory.kind);
    bytes[5 * page] = 2;
    memfd.write(page, Uint8Array.of(9)); // not through the mapping: not seen
    assert.deepEqual(pagesOf(memory, scanWritten(memory, { rearm: true })), [[5, 1]], memory.kind);
    memory.unmap();
    uffd.close();
  }
  memfd.close();
  rmSync(folder, { recursive: true });
});

test('a patch is not registered', { ...deadline, skip }, () => {
  const memory = smallPages(8);
  const uffd = tracked(memory);
  memory.patch(2 * page, 'anonymous', { byteLength: page });
  assert.throws(() => scanWritten(memory, { rearm: true }), { name: 'PageScanError', errno: 1 });
  memory.unmap();
  uffd.close();
});

test('no write of another thread is lost between scans', { ...deadline, skip }, async () => {
  const pages = 512;
  const memory = smallPages(pages);
  const bytes = new Uint32Array(memory.buffer);
  const step = page / 4;
  for (let i = 0; i < pages; i++) bytes[i * step] = 1;
  const uffd = tracked(memory);
  const copy = Array.from({ length: pages }, () => 1);
  const code = `import { workerData } from 'node:worker_threads';
    import { Mapping } from ${JSON.stringify(import.meta.resolve('pagefault/kernel'))};
    const words = new Uint32Array(Mapping.bufferAt(workerData.range));
    const flag = new Int32Array(workerData.flag);
    let seed = 1;
    Atomics.store(flag, 1, 1);
    for (let n = 2; Atomics.load(flag, 0) === 0; n++) {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      words[((seed >>> 8) % ${pages}) * ${step}] = n;
    }`;
  const flag = new SharedArrayBuffer(8);
  const range = { address: memory.address, byteLength: memory.byteLength };
  const worker = new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), {
    workerData: { range, flag },
  });
  const ended = new Promise((resolve, reject) => worker.once('exit', resolve).once('error', reject));
  Atomics.wait(new Int32Array(flag), 1, 0, 1);
  while (Atomics.load(new Int32Array(flag), 1) === 0) await new Promise((resolve) => setTimeout(resolve, 1));
  let scans = 0;
  const collect = (): void => {
    for (const [first, count] of pagesOf(memory, scanWritten(memory, { rearm: true }))) {
      for (let i = first; i < first + count; i++) copy[i] = bytes[i * step] ?? 0;
    }
    scans++;
  };
  for (const end = Date.now() + 700; Date.now() < end; ) collect();
  Atomics.store(new Int32Array(flag), 0, 1);
  await ended;
  collect();
  assert.deepEqual(
    copy,
    Array.from({ length: pages }, (_, i) => bytes[i * step]),
  );
  assert.ok(scans > 10);
  memory.unmap();
  uffd.close();
});

test('heap memory is paged, unregistered and given back', { ...deadline, skip }, () => {
  for (const from of ['malloc', 'brk'] as const) {
    if (from === 'brk' && !breakHasRoom(16 * page)) continue;
    const memory = Mapping.heap(16 * page, { from });
    const uffd = Uffd.open({ userModeOnly: true });
    uffd.register(memory, 'missing');
    uffd.copy(memory.address, new Uint8Array(16 * page).fill(6));
    assert.equal(new Uint8Array(memory.buffer)[15 * page], 6);
    memory.advise('dontneed', page, page);
    uffd.unregister(memory);
    uffd.close();
    memory.unmap();
  }
});
