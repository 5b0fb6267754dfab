/** `pagefault paging --watch`: the picture, in a pseudo terminal, and the keys. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { plainTerminal } from 'pagefault/observe';
import type { Paged } from '#dist/cli/paging/paged.js';
import { pictureOf } from '#dist/cli/paging/picture.js';
import { Latencies } from '#dist/guests/latency.js';
import { GUEST_PAGE, Pages } from '#dist/guests/pages.js';
import { until } from '../helpers/descriptors.js';
import { paging } from '../helpers/paging.js';
import { assertRestored, inTerminal, withoutTerminal } from '../helpers/terminal.js';

const TIMEOUT_MS = 30_000;

test('a live picture of each child, and a summary', { skip: withoutTerminal }, async () => {
  const run = inTerminal('paging 300 --watch --children 2 --pause 1 --write');
  assert.equal(await run.ended, 0);
  const frames = run.shown().split('\x1b[J');
  assert.ok(frames.length > 3 && frames.length < 40, `${frames.length} frames`);
  const last = frames.at(-1) ?? '';
  assert.equal([...last.matchAll(/\] 300 pages/g)].length, 2);
  assert.match(last, /600 dirty/);
  assert.match(last, /on-demand: 600 faults/);
  assert.match(last, /300 pages \(2 children\) in .*600 write faults/);
  assert.doesNotMatch(run.shown(), /page fault:/);
  assertRestored(run.shown());
});

test('keys change the strategy, and q ends', { skip: withoutTerminal }, async () => {
  const run = inTerminal('paging 5000 --watch --pause 5');
  await until(() => /on-demand: [1-9]/.test(run.shown()), TIMEOUT_MS);
  run.type('r');
  await until(() => run.shown().includes('read-ahead: '), TIMEOUT_MS);
  run.type('b');
  await until(() => run.shown().includes('budget: '), TIMEOUT_MS);
  run.type('e');
  await until(() => / 5,000 present/.test(run.shown()), TIMEOUT_MS);
  run.type('q');
  assert.equal(await run.ended, 0);
  assertRestored(run.shown());
});

test('Ctrl-C ends it with 130 and the terminal as it was', { skip: withoutTerminal }, async () => {
  for (const who of ['', '--threads 2']) {
    const run = inTerminal(`paging 5000 --watch --pause 5 ${who}`);
    await until(() => /on-demand: [1-9]/.test(run.shown()), TIMEOUT_MS);
    run.type('\x03');
    assert.equal(await run.ended, 130);
    assertRestored(run.shown());
  }
});

test('keys work beside the transcript, and each switch is a line', { skip: withoutTerminal }, async () => {
  const run = inTerminal('paging 5000 --pause 5');
  await until(() => run.shown().includes("read 'C'"), TIMEOUT_MS);
  run.type('e');
  await until(() => /strategy on-demand → eager after \d+ faults/.test(run.shown()), TIMEOUT_MS);
  run.type('q');
  assert.equal(await run.ended, 0);
  assertRestored(run.shown());
});

test('where stdout goes elsewhere the picture is on stderr, and the lines go there', {
  skip: withoutTerminal,
}, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-watch-'));
  const path = join(folder, 'lines');
  const run = inTerminal(`paging 300 --watch --pause 1 --json > "${path}"`);
  assert.equal(await run.ended, 0);
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
  rmSync(folder, { recursive: true });
  assert.equal(lines.map((line) => JSON.parse(line) as { type: string }).at(-1)?.type, 'summary');
  assert.equal(lines.length, 300 * 6 + 9);
  assert.ok(run.shown().split('\x1b[J').length > 3);
  assertRestored(run.shown());
});

test('without a terminal a sentence says so, and the transcript goes on', async () => {
  const { code, stdout, stderr } = await paging(['2', '--watch']);
  assert.equal(code, 0);
  assert.match(stderr, /^pagefault: --watch needs a terminal for itself, .*going on without\n$/);
  assert.match(stdout, /read 'B'/);
});

function pagedOf(pid: number, count: number, set: (pages: Pages) => void): Paged {
  const pages = new Pages(count);
  set(pages);
  const pager = {
    pid,
    regions: [{ pages }],
    strategy: 'on-demand',
    latencies: new Latencies(),
    stats: () => ({ faults: 2 }),
  };
  return { pager, letters: {} } as unknown as Paged;
}

test('the picture shows each state, and what goes on in a cell of many pages', () => {
  const few = pagedOf(7, 6, (pages) => {
    const { absent, loading, present, dirty, evicted, failed } = GUEST_PAGE;
    for (const [page, state] of [absent, loading, present, dirty, evicted, failed].entries()) pages.set(page, state);
  });
  const scene = { all: [few], strategy: 'on-demand', perSecond: 12, rows: 24, over: false };
  const [heading, cells, ...below] = pictureOf(scene, plainTerminal(80));
  assert.equal(heading, '[7] 6 pages');
  assert.equal(cells, '·▒█▓░x');
  assert.match(below.join('\n'), /· 1 absent {2}▒ 1 loading {2}█ 1 present {2}▓ 1 dirty {2}░ 1 evicted {2}x 1 failed/);
  assert.match(below.join('\n'), /on-demand: 2 faults, 12\/s/);
  assert.equal(pictureOf(scene, plainTerminal(80, false))[1], '.o#*-x');

  const many = pagedOf(8, 100_000, (pages) => {
    for (let page = 0; page < 50_000; page++) pages.set(page, GUEST_PAGE.present);
    pages.set(99_999, GUEST_PAGE.loading);
  });
  const [wide, ...lines] = pictureOf({ ...scene, all: [many] }, plainTerminal(41));
  assert.match(wide ?? '', /^\[8\] 100,000 pages, a cell is about 313/);
  assert.equal(lines.slice(0, 8).join(''), `${'█'.repeat(160)}${'·'.repeat(159)}▒`);
  const crowd = pictureOf({ ...scene, all: new Array(40).fill(few) }, plainTerminal(80));
  assert.match(crowd[0] ?? '', /40 children/);
  assert.ok(crowd.length <= 24);
});
