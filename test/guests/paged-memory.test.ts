/** pagedMemory() in a Node child, against a pager that is written to the protocol. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { hello, Parent, type ParentOptions } from '../helpers/guest-parent.js';
import { reserveHugePages } from '../helpers/huge-pages.js';

const STORE = 64 * 4096;
const fixture = fileURLToPath(new URL('../fixtures/paged.js', import.meta.url));
const { EPERM, ENOENT, ENOMEM, ETIMEDOUT } = constants.errno;

function start(args: readonly string[], options: ParentOptions = {}): Parent {
  return new Parent(process.execPath, [fixture, ...args], options);
}

/** What a child that ended well said. */
async function said(parent: Parent): Promise<Record<string, unknown>[]> {
  const { code, signal, stdout, stderr } = await parent.ended();
  assert.equal(signal, null, stderr);
  assert.equal(code, 0, stderr);
  return stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line));
}

/** The same of a child that pages memory of that kind; another one where V8 has put code behind the break. */
async function saidOf(
  kind: string,
  options: ParentOptions,
): Promise<{ parent: Parent; said: Record<string, unknown>[] }> {
  for (let tries = 0; ; tries++) {
    const parent = start(['kind', kind], options);
    const documents = await said(parent);
    const inTheWay = kind === 'brk' && /brk gives no/.test(String(documents[0]?.['message']));
    if (!inTheWay || tries === 20) return { parent, said: documents };
  }
}

const all = { kind: 'mmap', byteLength: STORE, pageSize: 4096, aligned: true, wrong: 0 };

test('the store is there, all of it, and isPaged says so', async () => {
  const parent = start(['pages']);
  assert.deepEqual(await said(parent), [{ before: true, after: true }, all, STORE]);
  assert.equal(parent.regions.length, 2);
});

for (const kind of ['mmap', 'malloc', 'brk', 'shm'] as const) {
  test(`memory of kind '${kind}' is paged`, async () => {
    const { parent, said } = await saidOf(kind, { hello: hello({ flags: 3 }) });
    assert.deepEqual(said, [{ ...all, kind }]);
    assert.equal(parent.regions[0]?.memory, ['', 'mmap', 'malloc', 'brk', 'shm'].indexOf(kind));
    assert.equal((parent.regions[0]?.flags ?? 0) & 2, kind === 'shm' ? 2 : 0);
    assert.equal((parent.regions[0]?.flags ?? 0) & 4, 4);
  });
}

test("memory of kind 'hugetlb' is paged by huge pages", async (t) => {
  const hugePage = reserveHugePages(3);
  if (typeof hugePage === 'string') return t.skip(hugePage);
  const storeLength = 2 * hugePage;
  const parent = start(['kind', 'hugetlb'], { hello: hello({ storeLength, flags: 1 }) });
  assert.deepEqual(await said(parent), [
    { kind: 'hugetlb', byteLength: storeLength, pageSize: hugePage, aligned: true, wrong: 0 },
  ]);
  assert.equal(parent.regions[0]?.memory, 5);
  assert.equal(parent.regions[0]?.pageSize, hugePage);
  assert.equal(new Set(parent.faults).size, 2);
});

test("memory of kind 'hugetlb' names nr_hugepages where there are none", async (t) => {
  const hugePage = reserveHugePages(0); // so that nobody else sets some aside meanwhile
  if (typeof hugePage === 'string') return t.skip(hugePage);
  const free = Number(/^HugePages_Free: +(\d+)$/m.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
  const storeLength = (free + 1) * hugePage;
  const [error] = await said(start(['kind', 'hugetlb'], { hello: hello({ storeLength }) }));
  assert.equal(error?.['code'], 'ERR_PAGEFAULT_SYSTEM');
  assert.equal(error?.['errno'], ENOMEM);
  assert.match(String(error?.['message']), /nr_hugepages/);
});

test('several regions have their own parts of the store', async () => {
  const parent = start(['several']);
  assert.deepEqual(await said(parent), [
    { ...all, byteLength: 4096 },
    { ...all, kind: 'shm', byteLength: 10_000 },
    { ...all, byteLength: STORE - 16_384 },
  ]);
  assert.deepEqual(
    parent.regions.map(({ offset, byteLength }) => [offset, byteLength]),
    [
      [0, 4096],
      [8192, 12_288],
      [16_384, STORE - 16_384],
    ],
  );
});

test('a page size that the pager wishes for is used where the part of the store allows it', async () => {
  const parent = start(['wished'], { hello: hello({ pageSize: 16_384 }) });
  assert.deepEqual(await said(parent), [
    { ...all, pageSize: 16_384 },
    { ...all, kind: 'malloc', byteLength: 10_000 },
    { ...all, kind: 'shm', byteLength: 20_000, pageSize: 16_384 },
  ]);
  assert.deepEqual(
    parent.regions.map(({ pageSize, byteLength }) => [pageSize, byteLength]),
    [
      [16_384, STORE],
      [4096, 12_288],
      [16_384, 32_768],
    ],
  );
});

test('Workers have regions of their own', async () => {
  assert.deepEqual(await said(start(['workers'])), [all, { ...all, variable: null }, { ...all, variable: null }, all]);
});

test('a Worker may be the only one that is paged', async () => {
  assert.deepEqual(await said(start(['only-worker'])), [{ ...all, variable: null }]);
});

test('child processes of the child do not see the variable', async () => {
  assert.deepEqual(await said(start(['child'])), [all, 'nothing']);
});

test('a process that spawnPaged did not start is told so in a sentence', async () => {
  const [states, error, again] = await said(start(['pages'], { env: { PAGEFAULT_GUEST_FD: undefined } }));
  assert.deepEqual(states, { before: false, after: false });
  assert.equal(error?.['name'], 'GuestError');
  assert.equal(error?.['code'], 'ERR_PAGEFAULT_GUEST_HANDSHAKE');
  assert.equal(error?.['errno'], ENOENT);
  assert.match(String(error?.['message']), /not started by spawnPaged/);
  assert.deepEqual(again, error);
});

test('a wrong hello is told in a sentence, each time', async () => {
  const [states, error, again] = await said(start(['pages'], { hello: hello({ version: 2 }) }));
  assert.deepEqual(states, { before: true, after: false });
  assert.equal(error?.['code'], 'ERR_PAGEFAULT_GUEST_HANDSHAKE');
  assert.match(String(error?.['message']), /version of the protocol/);
  assert.deepEqual(again, error);
});

test('what the parent refuses names the errno, and the next region may be served', async () => {
  for (const kind of ['mmap', 'malloc', 'brk', 'shm']) {
    const [error] = (await saidOf(kind, { answer: () => EPERM })).said;
    assert.equal(error?.['name'], 'GuestError');
    assert.equal(error?.['code'], 'ERR_PAGEFAULT_GUEST_HANDSHAKE');
    assert.equal(error?.['errno'], EPERM);
    assert.match(String(error?.['message']), /the pager refused memory of 262144 bytes at store offset 0: .*\(EPERM\)/);
  }
  let refusals = 0;
  const parent = start(['pages'], { answer: () => (refusals++ === 0 ? EPERM : 0) });
  const [, error, length] = await said(parent);
  assert.equal(error?.['errno'], EPERM);
  assert.equal(length, STORE);
});

test('a parent that does not answer is an error in time', async () => {
  const options: ParentOptions = { hello: hello({ ackTimeoutMs: 300 }), answer: () => undefined };
  const [error] = await said(start(['kind', 'mmap'], options));
  assert.equal(error?.['code'], 'ERR_PAGEFAULT_TIMEOUT');
  assert.equal(error?.['errno'], ETIMEDOUT);
});

test('wrong arguments are refused', async () => {
  const errors = await said(start(['arguments']));
  const names = errors.map(({ name, code }) => [name, code]);
  assert.deepEqual(names, [
    ['RangeError', 'ERR_PAGEFAULT_OUT_OF_RANGE'],
    ['TypeError', 'ERR_PAGEFAULT_INVALID_ARGUMENT'],
    ['RangeError', 'ERR_PAGEFAULT_OUT_OF_RANGE'],
    ['TypeError', 'ERR_PAGEFAULT_UNKNOWN_OPTION'],
    ['RangeError', 'ERR_PAGEFAULT_OUT_OF_RANGE'],
  ]);
});

test('when the parent dies, the process is killed at once and has seen no zero page', async () => {
  const parent = start(['loop'], { pages: 20 });
  await parent.until(() => parent.faults.length === 21);
  const died = Date.now();
  parent.die();
  const { signal, stdout, stderr } = await parent.ended();
  assert.ok(Date.now() - died < 10_000);
  assert.equal(signal, 'SIGKILL');
  assert.match(stderr, /the pager of process \d+ is gone/);
  assert.ok(!stdout.includes('wrong'), stdout);
  assert.ok(stdout.includes('{"page":19}\n') && !stdout.includes('{"page":20}\n'));
});
