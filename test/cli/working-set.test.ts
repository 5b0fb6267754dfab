/** `pagefault workingset show FILE`. */
import assert from 'node:assert/strict';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { mergeWorkingSets, type WorkingSet, writeWorkingSet } from 'pagefault/guests';
import { plainTerminal, renderWorkingSet } from 'pagefault/observe';
import { runCli } from '../helpers/run.js';
import { folderOf, setOf } from '../helpers/working-sets.js';

const SET: WorkingSet = mergeWorkingSets([
  setOf([...Array.from({ length: 100 }, (_, i) => 500 + i), 3, 7]),
  setOf([...Array.from({ length: 100 }, (_, i) => 500 + i), 999]),
]);

async function fileOf(t: TestContext): Promise<string> {
  const path = join(folderOf(t), 'vm.ws');
  await writeWorkingSet(path, SET);
  return path;
}

test('a picture shows how much, when, how often, where and in which order', () => {
  const lines = renderWorkingSet(SET, plainTerminal(110));
  const text = lines.join('\n');
  assert.match(text, /^snapshot {2}abababababababab…, 3\.91 MiB in pages of 4 KiB$/m);
  assert.match(text, /^recorded {2}2 runs$/m);
  assert.match(text, /^touched {3}103 pages, 412 KiB, 10\.3 % of the snapshot$/m);
  assert.match(text, /^ahead {5}103 pages, 412 KiB, in 5 stretches$/m);
  assert.match(text, / 67\.1 ms - 134 ms █+ 35$/m);
  assert.match(text, /^ {2}in 2 of 2: 100 pages\n {2}in 1 of 2: 3 pages$/m);
  const [where = '', when = ''] = [text.indexOf('\nWhere\n'), text.indexOf('\nWhen')].map((at) => text.slice(at));
  assert.match(where, /^ {6}0 B ·▒··▒·{95}$/m);
  assert.match(where, /^ 1\.95 MiB █{60}·{40}$/m);
  assert.match(where, /· 897 never touched {3}░▒▓█ 103 touched/);
  assert.match(when, /^ {6}0 B ·9··9·{95}$/m);
  assert.match(when, /^ 1\.95 MiB (?=.{60}·)0+1+2+3+4+5+6+7+8+9+·{40}$/m);
});

test('an empty working set is a picture, too', () => {
  assert.match(renderWorkingSet(setOf([])).join('\n'), /^touched {3}0 pages, 0 B, 0\.0 % of the snapshot$/m);
});

test('show prints the picture, and with --json the numbers and every stretch', async (t) => {
  const path = await fileOf(t);
  const shown = await runCli(['workingset', 'show', path]);
  assert.equal(shown.code, 0, shown.stderr);
  assert.equal(shown.stderr, '');
  assert.match(shown.stdout, /^recorded {2}2 runs$/m);
  const { stdout } = await runCli(['workingset', 'show', path, '--json', '--order']);
  const document = JSON.parse(stdout) as Record<string, unknown> & { order: object[] };
  assert.equal(document['file'], path);
  assert.equal(document['pages'], 103);
  assert.deepEqual(document['seen'], { 1: 3, 2: 100 });
  assert.deepEqual(document.order[0], { page: 500, count: 100, atUs: 0, spanUs: 99000, seen: 2 });
  assert.equal(document.order.length, 4);
});

test('a file that is missing, cut off, or something else is one sentence and exit code 1', async (t) => {
  const path = await fileOf(t);
  truncateSync(path, 200);
  const letter = join(folderOf(t), 'letter');
  writeFileSync(letter, 'a letter');
  const cases: [string[], number, RegExp][] = [
    [['show', path], 1, /^pagefault: \S+ is a working set that is damaged: it is cut off: it has 200 of 224 bytes\n$/],
    [['show', letter], 1, /^pagefault: \S+ is not a working set\n$/],
    [['show', join(letter, 'none')], 1, /^pagefault: the working set \S+ cannot be read: ENOTDIR[^\n]*\n$/],
    [['draw', letter], 2, /^pagefault: workingset cannot 'draw'\n {2}It is pagefault workingset show FILE\.\n$/],
  ];
  const results = await Promise.all(cases.map(([args]) => runCli(['workingset', ...args])));
  for (const [i, [args, code, sentence]] of cases.entries()) {
    assert.match(results[i]?.stderr ?? '', sentence, args.join(' '));
    assert.equal(results[i]?.code, code);
    assert.equal(results[i]?.stdout, '');
  }
});
