/** What the options of `pagefault paging` change in the picture. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { systemPageSize } from 'pagefault';
import { reserveHugePages } from '../helpers/huge-pages.js';
import { type Document, documentsOf, linesOf, paging, summaryOf } from '../helpers/paging.js';

const PAGE = systemPageSize();

test('several children run at once, each with the letters from A on', async () => {
  const documents = await documentsOf(['4', '--children', '3']);
  const children = documents.filter(({ type }) => type === 'child-started').map((started) => started['child']);
  assert.equal(new Set(children).size, 3);
  for (const child of children) {
    const reads = documents.filter(({ type, pid }) => type === 'read' && pid === child).map((read) => read['letter']);
    assert.deepEqual(reads, [...'AAAABBBBCCCCDDDD']);
  }
  const { faults, children: counted } = documents.at(-1) ?? ({} as Document);
  assert.deepEqual({ faults, counted }, { faults: 12, counted: 3 });
  const lines = await linesOf(['1', '--children', '2']);
  const pid = /child (\d+) started/.exec(lines.join('\n'))?.[1];
  assert.ok(lines.some((line) => line.includes(`page fault of child ${pid}: missing, read`)));
});

test('--threads alone has no child: threads of this process read, each its own pages', async () => {
  const documents = await documentsOf(['6', '--threads', '3']);
  assert.equal(new Set(documents.slice(0, -1).map(({ pid }) => pid)).size, 1);
  assert.ok(!documents.some(({ type }) => type === 'child-started'));
  const base = BigInt(String(documents.find(({ type }) => type === 'mapped')?.['address']));
  const reads = documents.filter(({ type }) => type === 'read');
  assert.equal(reads.length, 24);
  for (const { thread, address } of reads) {
    assert.equal(Math.floor(Number(BigInt(String(address)) - base) / PAGE) % 3, thread);
  }
  assert.deepEqual([...new Set(reads.map((read) => read['letter']))].sort(), [...'ABCDEF']);
  const { faults, children, threads } = documents.at(-1) ?? ({} as Document);
  assert.deepEqual({ faults, children, threads }, { faults: 6, children: 0, threads: 3 });
  const lines = await linesOf(['2', '--threads', '2']);
  assert.ok(lines.some((line) => /^\[\d+\/t1\] thread entering$/.test(line)));
});

test('with both, each child reads with its threads', async () => {
  const documents = await documentsOf(['4', '--children', '2', '--threads', '2']);
  const reads = documents.filter(({ type }) => type === 'read');
  assert.equal(reads.length, 32);
  assert.equal(new Set(reads.map(({ pid, thread }) => `${pid}/${thread}`)).size, 4);
  assert.equal(documents.at(-1)?.['faults'], 8);
});

for (const memory of ['mmap', 'malloc', 'brk', 'shm']) {
  test(`the pages may be of ${memory}, in a child and for threads, and go and come again`, async () => {
    for (const who of [[], ['--threads', '2']]) {
      const plain = await summaryOf(['6', '--memory', memory, ...who]);
      assert.deepEqual({ faults: plain['faults'], memory: plain['memory'] }, { faults: 6, memory });
      const budget = await summaryOf([
        '24',
        '--memory',
        memory,
        '--strategy',
        'budget',
        '--resident',
        '8',
        '--write',
        ...who,
      ]);
      assert.ok(Number(budget['evictions']) >= 16, JSON.stringify(budget));
      assert.ok(Number(budget['residentBytes']) <= 8 * PAGE);
    }
  });
}

test('without huge pages enough a sentence says what to do', async () => {
  const free = Number(/HugePages_Free: +(\d+)/.exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
  const { code, stderr } = await paging([String(free + 100), '--memory', 'hugetlb']);
  assert.equal(code, 4);
  assert.match(stderr, /needs .* huge pages? of .*, and .* free\n.*\/proc\/sys\/vm\/nr_hugepages\n$/);
});

test('huge pages: one fault brings a whole one, and they go and come again', async (context) => {
  const byteLength = reserveHugePages(12);
  if (typeof byteLength === 'string') return context.skip(byteLength);
  const lines = await linesOf(['2', '--memory', 'hugetlb']);
  assert.ok(lines.some((line) => line.includes(`copied ${byteLength} bytes of 'B'`)));
  for (const who of [[], ['--threads', '2'], ['--children', '2', '--threads', '2']]) {
    const summary = await summaryOf(['3', '--memory', 'hugetlb', ...who]);
    const processes = Math.max(1, Number(summary['children']));
    assert.deepEqual(
      { faults: summary['faults'], bytes: summary['bytes'] },
      { faults: 3 * processes, bytes: 3 * processes * byteLength },
    );
  }
  for (const who of [[], ['--threads', '1']]) {
    const budget = ['12', '--memory', 'hugetlb', '--strategy', 'budget', '--resident', '4', '--write', ...who];
    assert.ok(Number((await summaryOf(budget))['evictions']) >= 16);
  }
});

test('eager: everything is there before the child reads, and nothing faults', async () => {
  const lines = await linesOf(['4', '--strategy', 'eager']);
  assert.ok(!lines.some((line) => line.includes('page fault')));
  const copies = lines.flatMap((line, i) => (line.includes('copied') ? [i] : []));
  assert.equal(copies.length, 4);
  assert.ok(Math.max(...copies) < lines.findIndex((line) => line.includes("read 'A'")));
  assert.equal((await summaryOf(['4', '--strategy', 'eager', '--threads', '2']))['faults'], 0);
});

test('read-ahead: a fault brings the next pages too', async () => {
  const { faults, ahead, pagesCopied } = await summaryOf(['20', '--strategy', 'read-ahead', '--readahead', '5']);
  assert.deepEqual({ faults, ahead, pagesCopied }, { faults: 4, ahead: 16, pagesCopied: 20 });
});

test('budget: no more than so many pages are there, and evicted ones come back the same', async () => {
  const documents = await documentsOf(['12', '--strategy', 'budget', '--resident', '4']);
  let present = 0;
  for (const { type } of documents) {
    if (type === 'copied') present += 1;
    if (type === 'evicted') present -= 1;
    assert.ok(present <= 4);
  }
  const letters = documents.filter(({ type }) => type === 'read').map((read) => String(read['letter']));
  assert.equal(letters.length, 96);
  assert.deepEqual(letters.slice(0, 48), letters.slice(48));
  assert.ok(Number(documents.at(-1)?.['evictions']) >= 20);
});

test('--write: write faults, dirty pages, and written pages come back with what was written', async () => {
  const lines = await linesOf(['2', '--write']);
  const from = lines.findIndex((line) => line.includes('write-protect, write'));
  const told = lines.slice(from, from + 3).map((line) => line.replace(/^\[\d+\] /, '').replace(/0x\w+/, 'ADDRESS'));
  assert.deepEqual(told, [
    'page fault: write-protect, write, address ADDRESS',
    'page 0 is dirty now',
    "wrote 'a' at ADDRESS",
  ]);
  assert.match(lines.at(-2) ?? '', /dirty at the end: 2 pages \(0-1\)$/);

  const documents = await documentsOf(['10', '--write', '--strategy', 'budget', '--resident', '4']);
  const second = documents.filter(({ type }) => type === 'read').slice(40);
  assert.deepEqual(
    second.map((read) => read['letter']),
    [...'ABCDEFGHIJ'].flatMap((letter) => [letter.toLowerCase(), letter, letter, letter]),
  );
  assert.ok(documents.some(({ type, saved }) => type === 'evicted' && saved === true));
  assert.ok(documents.some(({ type, saved }) => type === 'copied' && saved === true));
  assert.deepEqual(documents.find(({ type }) => type === 'dirty')?.['ranges'], [[0, 9]]);
  assert.equal((await summaryOf(['4', '--write', '--threads', '2']))['writeFaults'], 4);
});

test('--switch-after goes from strategy to strategy while pages are brought', async () => {
  const documents = await documentsOf([
    '12',
    '--strategy',
    'on-demand,read-ahead,eager',
    '--switch-after',
    '2',
    '--readahead',
    '2',
  ]);
  assert.deepEqual(
    documents.filter(({ type }) => type === 'strategy').map(({ from, to, faults }) => [from, to, faults]),
    [
      ['on-demand', 'read-ahead', 2],
      ['read-ahead', 'eager', 4],
    ],
  );
  const { faults, strategy, pagesCopied } = documents.at(-1) ?? ({} as Document);
  assert.deepEqual({ faults, strategy, pagesCopied }, { faults: 4, strategy: 'eager', pagesCopied: 12 });
  const quiet = await summaryOf(['12', '--strategy', 'eager,budget', '--switch-after', '1']);
  assert.equal(quiet['faults'], 0);
  const threads = await summaryOf(['12', '--strategy', 'on-demand,eager', '--switch-after', '3', '--threads', '1']);
  assert.equal(threads['faults'], 3);
});

test('strategies that change under many threads lose no written byte', async () => {
  const often = ['--write', '--strategy', 'budget,read-ahead,budget,on-demand,budget,eager', '--switch-after', '25'];
  for (const who of [
    ['--threads', '4'],
    ['--children', '3', '--threads', '3'],
    ['--children', '6'],
  ]) {
    const summary = await summaryOf(['120', '--resident', '16', ...often, ...who]);
    // Each child checks what it has written. A page that is evicted in the middle of a write fault comes back open for writing.
    assert.equal(summary['failures'], 0);
    assert.ok(Number(summary['evictions']) > 0);
  }
});
