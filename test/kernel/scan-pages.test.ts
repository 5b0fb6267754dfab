import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { Mapping, Memfd, type PageSpan, pageSize, type Range, scanPages, scanWritten } from 'pagefault/kernel';
import { countDescriptors } from '../helpers/proc.js';
import { runNode } from '../helpers/run.js';

const page = pageSize();
const deadline = { timeout: 60_000 };

function supported(): boolean {
  try {
    scanPages({ address: 0n, byteLength: page });
    return true;
  } catch (error) {
    if ((error as { code?: string }).code === 'ERR_PAGEFAULT_UNSUPPORTED') return false;
    throw error;
  }
}
const skip = supported() ? false : 'this kernel has no PAGEMAP_SCAN (Linux 6.7)';

/** [first page, pages, categories] of each span. */
function shape(range: Range, spans: readonly PageSpan[]): [number, number, string][] {
  return spans.map((span) => [
    Number(span.address - range.address) / page,
    span.byteLength / page,
    span.categories.toString(),
  ]);
}

function touched(pages: number, which: readonly number[]): Mapping {
  const memory = Mapping.anonymous(pages * page);
  memory.advise('nohugepage');
  const bytes = new Uint8Array(memory.buffer);
  for (const i of which) bytes[i * page] = 1;
  return memory;
}

test('the pages that are there, in spans', { ...deadline, skip }, () => {
  const before = countDescriptors();
  const memory = touched(64, [0, 1, 2, 10, 63]);
  assert.deepEqual(shape(memory, scanPages(memory)), [
    [0, 3, 'present'],
    [10, 1, 'present'],
    [63, 1, 'present'],
  ]);
  const part = { address: memory.address + BigInt(2 * page), byteLength: 8 * page };
  assert.deepEqual(shape(memory, scanPages(part)), [[2, 1, 'present']]);
  memory.advise('dontneed');
  assert.deepEqual(scanPages(memory), []);
  memory.unmap();
  assert.deepEqual(scanPages(memory), [], 'where nothing is mapped there are no pages');
  assert.equal(countDescriptors(), before);
});

test('filters and reports are what they say', { ...deadline, skip }, () => {
  const memory = touched(8, [1]);
  const bytes = new Uint8Array(memory.buffer);
  assert.equal(bytes[4 * page], 0); // read, never written: the page of zeroes
  const report = ['present', 'pfn-zero', 'file'] as const;
  assert.deepEqual(shape(memory, scanPages(memory, { report })), [
    [1, 1, 'present'],
    [4, 1, 'present, pfn-zero'],
  ]);
  assert.deepEqual(shape(memory, scanPages(memory, { all: ['present'], none: ['pfn-zero'] })), [[1, 1, 'present']]);
  assert.deepEqual(shape(memory, scanPages(memory, { none: ['present'], report: [] })), [
    [0, 1, 'none'],
    [2, 2, 'none'],
    [5, 3, 'none'],
  ]);
  const memfd = Memfd.create('scan', { byteLength: 4 * page });
  const shared = Mapping.memfd(memfd);
  new Uint8Array(shared.buffer)[page] = 1;
  assert.deepEqual(shape(shared, scanPages(shared, { all: ['present', 'file'] })), [[1, 1, 'file, present']]);
  for (const each of [memory, shared]) each.unmap();
  memfd.close();
});

test('more spans than one call of the kernel returns are all there', { ...deadline, skip }, () => {
  const pages = 4096;
  const alternate = Array.from({ length: pages / 2 }, (_, i) => 2 * i);
  const memory = touched(pages, alternate);
  const spans = scanPages(memory);
  assert.deepEqual(
    shape(memory, spans).map(([at]) => at),
    alternate,
  );
  for (const limit of [1, 255, 256, 257, 1000]) {
    const some = shape(memory, scanPages(memory, { limit }));
    assert.deepEqual(
      some.map(([at]) => at),
      alternate.slice(0, limit),
    );
  }
  memory.advise('populate-write');
  assert.deepEqual(shape(memory, scanPages(memory)), [[0, pages, 'present']], 'neighbours are one span');
  assert.deepEqual(shape(memory, scanPages(memory, { limit: 300 })), [[0, 300, 'present']]);
  memory.unmap();
});

test('what is no scan is refused', { ...deadline, skip }, () => {
  const memory = touched(2, [0]);
  const wrongTypes: object[] = [
    { some: [] },
    { all: 'present' },
    { any: ['here'] },
    { none: [5] },
    { rearm: 1 },
    { limit: '5' },
    { pid: '1' },
  ];
  for (const options of wrongTypes) {
    assert.throws(() => scanPages(memory, options), { name: 'TypeError' }, JSON.stringify(options));
  }
  const wrongRanges: object[] = [
    { limit: 0 },
    { limit: 1.5 },
    { pid: -1 },
    { pid: 2 ** 32 + 1 },
    { all: ['present'], none: ['present'] },
  ];
  for (const options of wrongRanges) {
    assert.throws(() => scanPages(memory, options), { name: 'RangeError' }, JSON.stringify(options));
  }
  assert.throws(() => scanPages({ address: 1n, byteLength: page }), { name: 'RangeError' });
  assert.throws(() => scanPages({ address: 0n, byteLength: 0 }), { name: 'RangeError' });
  assert.throws(() => scanWritten(memory, { all: [] } as never), { name: 'TypeError', message: /no option 'all'/ });
  const beyond = { address: 1n << 63n, byteLength: page };
  assert.throws(() => scanPages(beyond), { name: 'PageScanError', errno: 14, message: /not in user space/ });
  memory.unmap();
});

test('re-arming what no userfaultfd write-protects is refused, and says what is needed', { ...deadline, skip }, () => {
  const before = countDescriptors();
  const memory = touched(2, [0]);
  for (const scan of [() => scanWritten(memory, { rearm: true }), () => scanPages(memory, { rearm: true })]) {
    assert.throws(scan, {
      name: 'PageScanError',
      code: 'ERR_PAGEFAULT_SYSTEM',
      errno: 1,
      message: /registered for 'write-protect' with a userfaultfd that has the feature 'wp-async'/,
    });
  }
  assert.deepEqual(
    shape(memory, scanWritten(memory)),
    [[0, 1, 'written']],
    'without one, all that is there is written',
  );
  memory.unmap();
  assert.equal(countDescriptors(), before);
});

test('the pages of another process', { ...deadline, skip }, async () => {
  const code = `import { Mapping } from 'pagefault/kernel';
    const memory = Mapping.anonymous(${8 * page});
    memory.advise('nohugepage');
    new Uint8Array(memory.buffer)[${3 * page}] = 1;
    console.log(String(memory.address));
    process.stdin.resume();`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', code], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 30_000);
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const range = { address: BigInt(line.toString().trim()), byteLength: 8 * page };
  const pid = child.pid ?? 0;
  assert.deepEqual(shape(range, scanPages(range, { pid })), [[3, 1, 'present']]);
  child.kill('SIGKILL');
  await once(child, 'exit');
  clearTimeout(timer);
  assert.throws(() => scanPages(range, { pid }), { name: 'SystemError', errno: 2, message: /no such process/ });
});

test('a process that is not dumpable may not look at its own pages', { ...deadline, skip }, async (t) => {
  if (process.getuid?.() !== 0) return t.skip('becoming another user needs root');
  // Changing the user while running makes a process not dumpable.
  const code = `import { Mapping, scanPages } from 'pagefault/kernel';
    const memory = Mapping.anonymous(${page});
    process.setgid(65534); process.setgroups([]); process.setuid(65534);
    try { scanPages(memory); console.log('allowed'); } catch (error) { console.log(error.name, error.errno, error.message); }`;
  const ended = await runNode('--input-type=module', ['--eval', code], { timeoutMs: 30_000 });
  assert.match(
    ended.stdout,
    /^PermissionError 13 .*\/proc\/self\/pagemap may not be opened.*not dumpable.*CAP_SYS_PTRACE/,
  );
});
