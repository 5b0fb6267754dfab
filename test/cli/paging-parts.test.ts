/** The parts of `pagefault paging` that no run shows: a wrong letter is noticed, lines are whole, nothing is left in the process that ran it. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { systemPageSize } from 'pagefault';
import { parseCommand } from '#dist/cli/command.js';
import { runChildren } from '#dist/cli/paging/children.js';
import { DirtyPages } from '#dist/cli/paging/dirty.js';
import { Explainer } from '#dist/cli/paging/explain.js';
import { paging as command } from '#dist/cli/paging/index.js';
import { Letters } from '#dist/cli/paging/letters.js';
import { wordsOf } from '#dist/cli/paging/line.js';
import { runThreads } from '#dist/cli/paging/local.js';
import type { Paged } from '#dist/cli/paging/paged.js';
import { planOf } from '#dist/cli/paging/plan.js';
import { readPages } from '#dist/cli/paging/reader.js';
import { Speaker } from '#dist/cli/paging/speaker.js';
import { sentenceOf, summaryOf } from '#dist/cli/paging/summary.js';
import { Switching } from '#dist/cli/paging/switching.js';
import { openFds, until } from '../helpers/descriptors.js';
import { isAlive } from '../helpers/paging.js';
import { root } from '../helpers/run.js';

const PAGE = 4096;
const silent = { json: false, silent: true };

/** What a reader says of memory that holds these letters, a string a page: one letter for all of it, or one for each quarter. */
function read(
  held: readonly string[],
  more: { passes?: number; write?: boolean; change?: (bytes: Uint8Array) => void } = {},
) {
  const bytes = new Uint8Array(held.length * PAGE);
  for (const [page, letters] of held.entries()) {
    for (let quarter = 0; quarter < 4; quarter++) {
      const begin = page * PAGE + quarter * (PAGE / 4);
      bytes.fill((letters[quarter] ?? letters).charCodeAt(0), begin, begin + PAGE / 4);
    }
  }
  more.change?.(bytes);
  return readPages({
    pages: held.length,
    pageSize: PAGE,
    passes: more.passes ?? 1,
    write: more.write ?? false,
    pauseMs: 0,
    bytes,
    address: 0n,
    first: 0,
    step: 1,
    speaker: new Speaker(silent),
    explainer: new Explainer(undefined),
    stop: undefined,
  });
}

test('a page that does not hold one and the same letter is noticed', () => {
  assert.equal(read(['A', 'B', 'Z']), undefined);
  assert.equal(read(['A', 'B'], { passes: 2, write: true }), undefined);
  assert.match(read(['A', 'BBCB']) ?? '', /^page 1 holds 'B', 'B', 'C', 'B' where one and the same letter must be$/);
  assert.match(read(['\0']) ?? '', /^page 0 holds byte 0, byte 0, byte 0, byte 0/);
  assert.match(read(['BAAA']) ?? '', /page 0 holds 'B', 'A'/);
  assert.match(read(['aaaa']) ?? '', /page 0 holds 'a'/);
});

test('the n-th page that is asked for has the n-th letter, again and again', () => {
  const letters = new Letters(60, PAGE);
  const page = new Uint8Array(PAGE);
  const asked = Array.from({ length: 60 }, (_, i) => (i * 7) % 60);
  for (const round of [0, 1]) {
    for (const [n, number] of asked.entries()) {
      assert.equal(letters.read(number * PAGE, page), PAGE);
      assert.ok(
        page.every((byte) => byte === 65 + (n % 26)),
        `round ${round}, page ${number}`,
      );
      assert.equal(letters.letterOf(number), String.fromCharCode(65 + (n % 26)));
    }
  }
});

test('dirty pages are told in runs', () => {
  const dirty = new DirtyPages();
  for (const page of [9, 3, 2, 4, 0, 3]) dirty.add(page);
  assert.deepEqual(dirty.ranges(), {
    pages: 5,
    ranges: [
      [0, 0],
      [2, 4],
      [9, 9],
    ],
  });
  dirty.remove(3, 2);
  const line = { type: 'dirty', child: 7, several: true, ...dirty.ranges() } as const;
  assert.equal(wordsOf(line), 'dirty at the end of child 7: 3 pages (0, 2, 9)');
});

test('lines of many processes into one file are whole, none over another', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-lines-'));
  const path = join(folder, 'lines');
  const fd = openSync(path, 'w');
  try {
    const args = ['dist/cli/main.js', 'paging', '100', '--children', '3', '--json'];
    const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', fd, 'inherit'], timeout: 60_000 });
    assert.equal(await new Promise((resolve) => child.once('exit', resolve)), 0);
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
    const documents = lines.map((line) => JSON.parse(line) as { type: string });
    assert.equal(documents.filter(({ type }) => type === 'read').length, 1200);
  } finally {
    closeSync(fd);
    rmSync(folder, { recursive: true });
  }
});

test('a reader that is slow, on a pipe that does not wait, loses nothing', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-slow-'));
  const script = join(folder, 'slow.cjs');
  // A socket of libuv is non-blocking on both ends; it is read only after the command has long filled it.
  writeFileSync(
    script,
    `const { spawn } = require('node:child_process');
     const child = spawn(process.execPath, ['dist/cli/main.js', 'paging', '1500'], { stdio: ['ignore', 'pipe', 'inherit'] });
     let bytes = '';
     setTimeout(() => child.stdout.on('data', (data) => { bytes += data; }), 1500);
     child.on('close', (code) => console.log(code, bytes.trimEnd().split('\\n').length));`,
  );
  const child = spawn(process.execPath, [script], { cwd: root, stdio: ['ignore', 'pipe', 'inherit'], timeout: 60_000 });
  let told = '';
  child.stdout.on('data', (data) => {
    told += data;
  });
  await new Promise((resolve) => child.once('close', resolve));
  rmSync(folder, { recursive: true });
  assert.equal(told, `0 ${1500 * 6 + 8}\n`);
});

for (const args of [
  ['9', '--children', '3', '--write', '--strategy', 'budget'],
  ['9', '--children', '2', '--signalfd'],
  ['9', '--threads', '3', '--write', '--strategy', 'budget'],
  ['9', '--threads', '2', '--memory', 'shm'],
]) {
  test(`nothing is left in the process that ran paging ${args.join(' ')}`, async () => {
    const plan = planOf(parseCommand(command, args));
    const once = async (): Promise<Paged[]> => {
      const speaker = new Speaker(silent);
      const all: Paged[] = [];
      const error = await (plan.children > 0 ? runChildren : runThreads)({
        plan,
        pageSize: systemPageSize(),
        voice: silent,
        speaker,
        explainer: new Explainer(undefined),
        switching: new Switching(plan.strategies, plan.switchAfter, speaker),
        signal: new AbortController().signal,
        started: (paged) => all.push(paged),
      });
      assert.equal(error, undefined);
      return all;
    };
    await once(); // what is opened once and kept is open now
    const before = openFds();
    const listeners = process.listenerCount('exit');
    const all = await once();
    await until(() => openFds() <= before); // Node closes the pipes of a child in its own time
    assert.equal(process.listenerCount('exit'), listeners);
    if (plan.children > 0) for (const { pager } of all) assert.ok(!isAlive(pager.pid));
    const summary = summaryOf(plan, 'on-demand', all, 12.5);
    assert.ok(summary.faults >= 9 * Math.max(1, plan.children));
    assert.match(sentenceOf(summary), /^9 pages \(.*\) in 12\.5 ms: .* faults, /);
  });
}
