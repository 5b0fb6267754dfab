/** What is wrong with shared memory, in sentences; and what the kernel does to it. */

import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { devNull } from 'node:os';
import { test } from 'node:test';
import { DescriptorError, map, PagefaultError, SharedMemory, sharedMemory } from 'pagefault';
import { Memfd } from 'pagefault/kernel';
import { memory, zero } from 'pagefault/stores';
import { openFds } from '../helpers/descriptors.js';
import { runNode } from '../helpers/run.js';
import { closeStamped, stamped } from '../helpers/stamped.js';
import { backends } from '../helpers/stores.js';
import { PAGE } from '../helpers/writable.js';

const [backend = 'signal'] = backends;

test('a length is bytes or a size with a unit, and not nothing', () => {
  const made = sharedMemory('64KiB');
  assert.equal(made.byteLength, 65_536);
  assert.equal(made.filledBytes, 0);
  made.close();
  const wrong: [length: unknown, name: string, message: RegExp][] = [
    [0, 'RangeError', /sharedMemory\(\): byteLength must be from 1/],
    [-1, 'RangeError', /byteLength/],
    [1.5, 'RangeError', /byteLength/],
    [2 ** 46, 'RangeError', /2\^45/],
    ['64 MB', 'TypeError', /MiB/],
    [undefined, 'TypeError', /byteLength/],
  ];
  for (const [length, name, message] of wrong) {
    assert.throws(() => sharedMemory(length as number), { name, message }, String(length));
  }
});

test('each place that shared memory does not fit is told with a code and the numbers', async () => {
  const a = await stamped(backend, 'memory', 16, 1, { byteLength: 15 * PAGE + 10, pageSize: 2 * PAGE, name: 'a' });
  const whole = sharedMemory(4 * PAGE);
  const odd = sharedMemory(3 * PAGE);
  const end = sharedMemory(PAGE + 10);
  const refused = (offset: unknown, laid: unknown, name: string, code: string, message: RegExp): void => {
    assert.throws(() => a.segment.patch(offset as number, laid as SharedMemory), { name, code, message });
  };
  refused(PAGE, whole, 'RangeError', 'ERR_PAGEFAULT_BASE_NOT_ALIGNED', /multiple of the pageSize .* 8192, not 4096/);
  refused(0, odd, 'RangeError', 'ERR_PAGEFAULT_SIZE_NOT_ALIGNED', /8192.*has 12288 bytes/);
  refused(12 * PAGE, whole, 'RangeError', 'ERR_PAGEFAULT_OUT_OF_BOUNDS', /past the end of segment "a" at 61450/);
  refused(32 * PAGE, whole, 'RangeError', 'ERR_PAGEFAULT_OUT_OF_BOUNDS', /past the end/);
  refused(-1, whole, 'RangeError', 'ERR_PAGEFAULT_OUT_OF_RANGE', /patch\(\): offset/);
  refused('0', whole, 'TypeError', 'ERR_PAGEFAULT_INVALID_ARGUMENT', /patch\(\): offset/);
  refused(0, {}, 'TypeError', 'ERR_PAGEFAULT_INVALID_ARGUMENT', /sharedMemory\(\).*not an object/);
  refused(0, undefined, 'TypeError', 'ERR_PAGEFAULT_INVALID_ARGUMENT', /sharedMemory\(\)/);
  a.segment.patch(14 * PAGE, end);
  assert.equal(a.bytes[15 * PAGE + 9], 1);
  a.bytes[0] = 9;
  refused(0, whole, 'PagefaultError', 'ERR_PAGEFAULT_DIRTY', /modified; flush or discard them first/);
  a.segment.discard();
  const pin = await a.segment.pin(2 * PAGE, 10);
  refused(0, whole, 'PagefaultError', 'ERR_PAGEFAULT_PINNED', /pinned/);
  pin.release();
  a.segment.patch(0, whole);
  whole.close();
  refused(0, whole, 'PagefaultError', 'ERR_PAGEFAULT_CLOSED', /this SharedMemory is closed/);
  for (const each of [odd, end]) each.close();
  await closeStamped(a);
});

test('closed shared memory has no descriptor, and closing again does nothing', () => {
  const made = sharedMemory(PAGE);
  assert.ok(made.fd > 2);
  made.close();
  made[Symbol.dispose]();
  assert.equal(made.byteLength, PAGE);
  for (const use of [() => made.fd, () => made.filledBytes]) {
    assert.throws(use, (error) => error instanceof PagefaultError && error.code === 'ERR_PAGEFAULT_CLOSED');
  }
});

test('a descriptor gives the same memory again, and everything else is refused', async () => {
  const made = sharedMemory(4 * PAGE);
  const again = SharedMemory.fromFd(made.fd);
  assert.equal(again.byteLength, 4 * PAGE);
  const a = await stamped(backend, 'memory', 4, 1);
  const b = await stamped(backend, 'memory', 4, 2);
  a.segment.patch(0, made);
  b.segment.patch(0, again);
  assert.equal(a.bytes[0], 1);
  assert.equal(b.bytes[0], 1);
  assert.equal(b.bytes[PAGE], 2);
  assert.equal(a.bytes[PAGE], 2);
  assert.equal(made.filledBytes, again.filledBytes);
  made.close();
  again.close();
  await closeStamped(a, b);
  const null_ = openSync(devNull, 'r+');
  const memfd = Memfd.create('other', { byteLength: 16 * PAGE });
  for (const fd of [null_, memfd.fd, 9999]) {
    assert.throws(
      () => SharedMemory.fromFd(fd),
      (error) => error instanceof DescriptorError && error.code === 'ERR_PAGEFAULT_WRONG_DESCRIPTOR',
    );
  }
  assert.throws(() => SharedMemory.fromFd('3' as never), { name: 'TypeError' });
  assert.throws(() => SharedMemory.fromFd(-1), { name: 'RangeError' });
  memfd.close();
  closeSync(null_);
});

test('shared memory that is collected, or whose thread ends, is closed', async () => {
  const script = `
    import { readdirSync } from 'node:fs';
    import { Worker } from 'node:worker_threads';
    import { once } from 'node:events';
    import { sharedMemory } from 'pagefault';
    const fds = () => readdirSync('/proc/self/fd').length;
    sharedMemory(4096).close();
    const before = fds();
    for (let i = 0; i < 50; i++) sharedMemory(4096);
    for (let i = 0; i < 2000 && fds() > before; i++) { gc(); await new Promise((resolve) => setTimeout(resolve, 10)); }
    console.log(fds() - before);
    const worker = "import('pagefault').then(({ sharedMemory }) => { globalThis.kept = sharedMemory(4096); })";
    await once(new Worker(worker, { eval: true }), 'exit');
    const after = fds();
    for (let i = 0; i < 5; i++) await once(new Worker(worker, { eval: true }), 'exit');
    for (let i = 0; i < 2000 && fds() > after; i++) await new Promise((resolve) => setTimeout(resolve, 10));
    console.log(Math.max(0, fds() - after));`;
  const { stdout, stderr, code } = await runNode('--expose-gc', ['--input-type=module', '-e', script]);
  assert.equal(code, 0, stderr);
  assert.equal(stdout, '0\n0\n');
});

test('a kernel without minor faults on shared memory says so', async () => {
  const script = `
    import { map, sharedMemory } from 'pagefault';
    import { zero } from 'pagefault/stores';
    const tell = (error) => console.log(error.name, error.code, error.message);
    const writable = process.argv[1] === 'writable';
    const store = writable ? (await import('pagefault/stores')).memory(new Uint8Array(new SharedArrayBuffer(8192))) : zero(8192);
    await map(store, { backend: 'memfd', writable }).catch(tell);
    const segment = await map(store, { backend: 'signal', writable });
    try { segment.patch(0, sharedMemory(4096)); } catch (error) { tell(error); }
    console.log(segment.read(0, 1)[0]);
    await segment.close();`;
  if (!backends.includes('memfd')) return;
  const without = async (features: string, kind: string): Promise<string> => {
    const env = { ...process.env, PAGEFAULT_WITHOUT: features };
    const { stdout, stderr, code } = await runNode('--input-type=module', ['-e', script, kind], { env });
    assert.equal(code, 0, stderr);
    return stdout;
  };
  const old = await without('minor', 'plain');
  assert.match(old, /^UnsupportedError ERR_PAGEFAULT_UNSUPPORTED backend 'memfd' cannot work: .*5\.14/m);
  assert.match(old, /^UnsupportedError ERR_PAGEFAULT_UNSUPPORTED patch\(\): .*5\.14/m);
  assert.match(old, /^0$/m);
  const older = await without('wp_shmem', 'writable');
  assert.match(older, /^UnsupportedError ERR_PAGEFAULT_UNSUPPORTED backend 'memfd' cannot work: .*6\.4/m);
  assert.match(older, /^UnsupportedError ERR_PAGEFAULT_UNSUPPORTED patch\(\): .*6\.4/m);
});

const HUGE = '/sys/kernel/mm/transparent_hugepage/shmem_enabled';

/** Lets the kernel use huge pages for shared memory meanwhile; false where it cannot be told to. */
async function withHugePages(setting: string, body: () => Promise<void>): Promise<boolean> {
  let before: string | undefined;
  try {
    before = /\[(\w+)\]/.exec(readFileSync(HUGE, 'latin1'))?.[1];
    writeFileSync(HUGE, setting);
  } catch {
    return false;
  }
  try {
    await body();
  } finally {
    writeFileSync(HUGE, before ?? 'never');
  }
  return true;
}

for (const setting of ['always', 'advise']) {
  test(`huge pages of shared memory (${setting}) do not make neighbours look filled`, async (t) => {
    const set = await withHugePages(setting, async () => {
      for (const each of backends) {
        const a = await stamped(each, 'memory', 1024, 1);
        const b = await stamped(each, 'memory', 1024, 2);
        const made = sharedMemory('4MiB');
        a.segment.patch(0, made);
        b.segment.patch(0, made);
        assert.equal(a.bytes[700 * PAGE], 1);
        assert.equal(made.filledBytes, PAGE);
        for (const page of [0, 511, 512, 699, 701, 1023]) assert.equal(b.bytes[page * PAGE], 2);
        assert.equal(a.bytes[701 * PAGE], 2);
        const c = await stamped(each, 'memory', 1024, 3); // the object that backend memfd has of its own
        assert.equal(c.bytes[700 * PAGE], 3);
        assert.equal(c.segment.stats().storeReads, 1);
        for (const page of [0, 511, 512, 699, 701, 1023]) assert.equal(c.bytes[page * PAGE], 3);
        assert.equal(c.segment.stats().storeReads, 7);
        c.bytes[600 * PAGE + 5] = 9;
        assert.deepEqual(c.segment.dirty(), [{ offset: 600 * PAGE, byteLength: PAGE }]);
        b.segment.release();
        assert.equal(b.bytes[702 * PAGE], 2);
        made.close();
        await closeStamped(a, b, c);
      }
    });
    if (!set) t.skip('only root can say how shared memory gets huge pages, where there is such a setting');
  });
}

test('counting what is filled of much memory makes none of it', async () => {
  const resident = (): number => Number(/RssShmem:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'latin1'))?.[1]);
  const made = sharedMemory('3GiB');
  const a = await map(zero(3 * 2 ** 30 + 4 * PAGE), { backend, readahead: 0 });
  a.patch(2 * PAGE, made);
  await a.load(2 ** 30, PAGE);
  await a.load(2 ** 31, PAGE);
  const before = resident();
  assert.equal(made.filledBytes, 2 * PAGE);
  assert.ok(resident() - before < 256, 'KiB');
  made.close();
  await a.close();
});

test('descriptors are all given back', async () => {
  const before = openFds();
  const made = sharedMemory(PAGE);
  const segment = await map(memory(new Uint8Array(PAGE)), { backend });
  const other = await map(zero(PAGE), { backend });
  segment.patch(0, made);
  other.patch(0, made);
  made.close();
  await segment.close();
  assert.equal(other.view(Uint8Array)[0], 0);
  await other.close();
  assert.ok(openFds() <= before + 4, 'the core keeps some of its own'); // opened on first use
});
