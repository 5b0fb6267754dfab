/** `pagefault paging`: the transcript, its letters, and what is told in which order. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemPageSize } from 'pagefault';
import { documentsOf, linesOf, paging, shapeOf, summaryOf } from '../helpers/paging.js';
import { root } from '../helpers/run.js';

const PAGE = systemPageSize();
const OFFSETS = [0x00f, 0x40f, 0x80f, 0xc0f];
const letter = (n: number): string => String.fromCharCode(65 + (n % 26));
const at = (page: number, offset: number): string => `+0x${(page * PAGE + offset).toString(16)}`;

/** What must be said of one page that is read. */
function pageLines(page: number): string[] {
  return [
    `[P] page fault: missing, read, address ${at(page, 0xf)}`,
    `[P] copied ${PAGE} bytes of '${letter(page)}' to ${at(page, 0)}`,
    ...OFFSETS.map((offset) => `[C] read '${letter(page)}' at ${at(page, offset)}`),
  ];
}

function transcript(pages: number): string[] {
  return [
    '[P] parent entering',
    `[P] page size ${PAGE}`,
    '[P] child C started',
    '[C] child entering',
    `[C] mapped ${pages} page${pages === 1 ? '' : 's'} at +0x0`,
    ...Array.from({ length: pages }, (_, page) => pageLines(page)).flat(),
    '[C] child exiting',
    '[P] got signal SIGCHLD from child C',
    '[P] parent exiting',
  ];
}

for (const pages of [1, 3, 30]) {
  test(`the transcript of ${pages} pages is in order${pages > 26 ? ', and A follows Z' : ''}`, async () => {
    assert.deepEqual(shapeOf(await linesOf([String(pages)])), transcript(pages));
  });
}

test('the transcript in docs/how-paging-works.md is that of a run', async () => {
  const page = readFileSync(join(root, 'docs/how-paging-works.md'), 'utf8');
  const [, shown = ''] = /^\$ npx pagefault paging 3\n(.*?)^```$/ms.exec(page) ?? [];
  assert.deepEqual(shapeOf(shown.trimEnd().split('\n')), shapeOf(await linesOf(['3'])));
});

test('with --json each line is an object with a pid and a type, and the last one is the summary', async () => {
  const documents = await documentsOf(['3']);
  const [first] = documents;
  const child = documents.find(({ type }) => type === 'child-started')?.['child'];
  assert.equal(documents.length, transcript(3).length + 1);
  assert.equal(first?.type, 'parent-entering');
  for (const { pid } of documents.slice(0, -1)) assert.ok(pid === first?.pid || pid === child);
  const reads = documents.filter(({ type }) => type === 'read');
  assert.deepEqual(
    reads.map((read) => read['letter']),
    [...'AAAABBBBCCCC'],
  );
  assert.ok(reads.every(({ address }) => /^0x[0-9a-f]+$/.test(String(address))));
  const { serviceNs, elapsedMs, ...counted } = documents.at(-1) ?? { type: '' };
  assert.ok(Number(elapsedMs) > 0);
  assert.deepEqual(Object.keys(serviceNs as object), ['p50', 'p90', 'p99', 'p999', 'max']);
  assert.deepEqual(counted, {
    type: 'summary',
    pages: 3,
    children: 1,
    threads: 1,
    memory: 'mmap',
    strategy: 'on-demand',
    pagesCopied: 3,
    faults: 3,
    duplicates: 0,
    writeFaults: 0,
    bytes: 3 * PAGE,
    ahead: 0,
    reloads: 0,
    evictions: 0,
    saves: 0,
    removed: 0,
    retries: 0,
    failures: 0,
    residentBytes: 3 * PAGE,
    savedBytes: 0,
  });
});

test('--quiet leaves one line, and with --json one object', async () => {
  const [line, ...others] = await linesOf(['5', '--quiet']);
  assert.match(line ?? '', /^5 pages in .*: 5 faults, 5 pages copied; half served within .* 99 % within /);
  assert.deepEqual(others, []);
  const documents = await documentsOf(['5', '--quiet']);
  assert.deepEqual(
    documents.map(({ type, faults }) => ({ type, faults })),
    [{ type: 'summary', faults: 5 }],
  );
});

test('every one of many faults is answered once', async () => {
  const summary = await summaryOf(['5000']);
  assert.equal(summary['faults'], 5000);
  assert.equal(summary['pagesCopied'], 5000);
  const { p50, p90, p99, p999, max } = summary['serviceNs'] as unknown as Record<string, number>;
  const times = [p50, p90, p99, p999, max].map(Number);
  assert.ok(
    times.every((time, i) => time > 0 && time >= (times[i - 1] ?? 0)),
    times.join(' '),
  );
});

test('--explain names the system call of each step, in full once and in few words after', async () => {
  const lines = await linesOf(['2', '--explain']);
  const told = lines.filter((line) => line.startsWith('    · '));
  assert.deepEqual(shapeOf(lines.filter((line) => !line.startsWith('    · '))), transcript(2));
  const calls = told.map((line) => line.slice(6, line.indexOf(': ')));
  for (const call of [
    'socketpair(2)',
    'fork(2), execve(2)',
    'pidfd_open(2)',
    'mmap(2)',
    'madvise(2)',
    'ioctl(2), UFFDIO_API',
    'ioctl(2), UFFDIO_REGISTER',
    'sendmsg(2), SCM_RIGHTS',
    'recvmsg(2), SCM_RIGHTS',
    'epoll_pwait(2)',
    'waitid(2)',
    'exit_group(2)',
  ]) {
    assert.equal(calls.filter((told) => told === call).length, 1, call);
  }
  const copies = told.filter((line) => line.includes('UFFDIO_COPY:'));
  assert.equal(copies.length, 2);
  assert.ok((copies[0]?.length ?? 0) > (copies[1]?.length ?? 0));
  // The call is explained before what it does is told.
  assert.ok(
    lines.findIndex((line) => line.includes('UFFDIO_COPY:')) === lines.findIndex((line) => line.includes('copied')) - 1,
  );
  const documents = await documentsOf(['1', '--explain']);
  assert.ok(documents.some(({ type, call, why }) => type === 'explain' && call === 'mmap(2)' && why !== ''));
});

test('a reader that has seen enough ends the command in peace', async () => {
  const { spawnSync } = await import('node:child_process');
  const command = `"${process.execPath}" dist/cli/main.js paging 2000 | head -n 12`;
  const { stdout, stderr, status } = spawnSync('sh', ['-c', command], { cwd: root, encoding: 'utf8', timeout: 30_000 });
  assert.equal(status, 0);
  assert.equal(stderr, '');
  assert.equal(stdout.trimEnd().split('\n').length, 12);
});

test('without a page count the usage is printed, examples first, and the exit code is 2', async () => {
  const { code, stdout, stderr } = await paging([]);
  assert.equal(code, 2);
  assert.equal(stdout, '');
  assert.ok(stderr.indexOf('Examples:') < stderr.indexOf('Usage: pagefault paging PAGES [options]'));
  const help = await paging(['--help']);
  assert.equal(help.code, 0);
  assert.equal(help.stdout, stderr);
  for (const option of [
    'children',
    'threads',
    'memory',
    'strategy',
    'switch-after',
    'write',
    'signalfd',
    'watch',
    'explain',
    'json',
    'quiet',
  ]) {
    assert.ok(help.stdout.includes(`--${option}`), option);
  }
});
