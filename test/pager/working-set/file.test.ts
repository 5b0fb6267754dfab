/** Working sets on disk: missing, something else, of another snapshot, written by several at once. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type TestContext, test } from 'node:test';
import { WorkingSetError } from 'pagefault';
import { readWorkingSet, writeWorkingSet } from 'pagefault/guests';
import { openWorkingSet, replayPages, saveWorkingSet, toPages } from '#dist/pager/working-set/index.js';
import { openFds } from '../../helpers/descriptors.js';
import { folderOf, SNAPSHOT, setOf, touchedPages } from '../../helpers/working-sets.js';

const OTHER = { ...SNAPSHOT, identity: 'cd'.repeat(32) };

async function failure(attempt: Promise<unknown>): Promise<WorkingSetError> {
  const error = await attempt.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  assert.ok(error instanceof WorkingSetError, String(error));
  return error;
}

function pathOf(test: TestContext): string {
  return join(folderOf(test), 'vm.ws');
}

test('a working set is read as it was written, and nothing else is left in the folder', async (t) => {
  const path = pathOf(t);
  const before = openFds();
  await writeWorkingSet(path, setOf([3, 4, 9]));
  await writeWorkingSet(path, setOf([7]));
  assert.deepEqual(await readWorkingSet(path), { ...setOf([7]), path });
  assert.deepEqual(readdirSync(join(path, '..')), ['vm.ws']);
  assert.equal(openFds(), before);
});

test('what is no working set is refused in one sentence, and no descriptor is left', async (t) => {
  const folder = folderOf(t);
  const before = openFds();
  const make = (name: string, act: (path: string) => void): string => {
    act(join(folder, name));
    return join(folder, name);
  };
  const cases: [string, RegExp][] = [
    [join(folder, 'none'), /^the working set \S*none cannot be read: there is no such file or directory \(ENOENT\)$/],
    [make('folder', (path) => mkdirSync(path)), /^\S*folder is not a working set: it is not a regular file$/],
    [
      make('pipe', (path) => execFileSync('mkfifo', [path])),
      /^\S*pipe is not a working set: it is not a regular file$/,
    ],
    [make('text', (path) => writeFileSync(path, 'hello')), /^\S*text is not a working set$/],
    [
      make('huge', (path) => writeFileSync(path, '')),
      /^\S*huge is not a working set: it has 1099511627776 bytes, and \S+ bytes are the most$/,
    ],
  ];
  truncateSync(join(folder, 'huge'), 2 ** 40);
  for (const [path, sentence] of cases) {
    const error = await failure(openWorkingSet(path, SNAPSHOT));
    assert.match(error.message, sentence);
    assert.equal(error.code, 'ERR_PAGEFAULT_WORKING_SET');
    assert.equal(error.path, path);
  }
  assert.equal(openFds(), before);
});

test('one of another snapshot, or one that is cut off, is distrusted and not an error', async (t) => {
  const path = pathOf(t);
  await writeWorkingSet(path, setOf([1, 2, 3]));
  assert.deepEqual(await openWorkingSet(path, SNAPSHOT), { set: { ...setOf([1, 2, 3]), path }, distrusted: undefined });
  const foreign = await openWorkingSet(path, OTHER);
  assert.equal(foreign.set, undefined);
  assert.equal(foreign.distrusted?.code, 'ERR_PAGEFAULT_WORKING_SET_FOREIGN');
  truncateSync(path, 140);
  const cut = await openWorkingSet(path, SNAPSHOT);
  assert.equal(cut.set, undefined);
  assert.match(cut.distrusted?.message ?? '', /is damaged: it is cut off: it has 140 of 152 bytes$/);
});

test('each run adds to the file, which is replaced where it is of another snapshot or damaged', async (t) => {
  const path = pathOf(t);
  await saveWorkingSet(path, SNAPSHOT, touchedPages([1, 2]));
  await saveWorkingSet(path, SNAPSHOT, touchedPages([2, 3]));
  const union = await readWorkingSet(path);
  assert.equal(union.recordings, 2);
  assert.deepEqual([...toPages(union.runs).pages], [1, 2, 3]);
  await saveWorkingSet(path, OTHER, touchedPages([9]));
  assert.deepEqual([...toPages((await readWorkingSet(path)).runs).pages], [9]);
  truncateSync(path, 100);
  await saveWorkingSet(path, SNAPSHOT, touchedPages([5]));
  assert.equal((await readWorkingSet(path)).recordings, 1);
});

test('a file that is something else is not overwritten', async (t) => {
  const path = pathOf(t);
  writeFileSync(path, 'a letter');
  const error = await failure(saveWorkingSet(path, SNAPSHOT, touchedPages([1])));
  assert.match(error.message, /vm\.ws is not a working set$/);
  assert.equal(readFileSync(path, 'utf8'), 'a letter');
  assert.deepEqual(readdirSync(join(path, '..')), ['vm.ws']);
});

test('what makes no sense is not written', async (t) => {
  const path = pathOf(t);
  const error = await failure(writeWorkingSet(path, { ...setOf([5]), byteLength: 4096 }));
  assert.match(error.message, /page 5 is out of range: the snapshot has 1 pages$/);
  assert.deepEqual(readdirSync(join(path, '..')), []);
});

test('a folder that is not there is one sentence', async (t) => {
  const path = join(folderOf(t), 'no', 'vm.ws');
  const error = await failure(saveWorkingSet(path, SNAPSHOT, touchedPages([1])));
  assert.match(error.message, /^the working set \S+ cannot be written: there is no such file or directory \(ENOENT\)$/);
});

test('runs that end at the same time do not lose each other', async (t) => {
  const path = pathOf(t);
  const before = openFds();
  await Promise.all(Array.from({ length: 20 }, (_, i) => saveWorkingSet(path, SNAPSHOT, touchedPages([i, 500]))));
  const set = await readWorkingSet(path);
  assert.equal(set.recordings, 20);
  assert.equal(toPages(set.runs).pages.length, 21);
  assert.deepEqual([...replayPages(set)], [500]);
  assert.equal(openFds(), before);
});

test('what was loaded ahead counts as seen, at the time that was known of it', async (t) => {
  const path = pathOf(t);
  await saveWorkingSet(path, SNAPSHOT, touchedPages([4, 8], 100));
  await saveWorkingSet(path, SNAPSHOT, touchedPages([9], 50), { replayed: Uint32Array.of(4, 8) });
  const { pages, atUs, seen } = toPages((await readWorkingSet(path)).runs);
  assert.deepEqual([...pages], [9, 4, 8]);
  assert.deepEqual([...atUs], [50, 100, 1100]);
  assert.deepEqual([...seen], [1, 2, 2]);
});

test('a file holds no more than its cap, over all runs', async (t) => {
  const path = pathOf(t);
  for (let run = 0; run < 4; run++) {
    await saveWorkingSet(path, SNAPSHOT, touchedPages([1, 2, 100 + run, 200 + run]), { cap: 3 * 4096 });
  }
  const set = await readWorkingSet(path);
  assert.equal(toPages(set.runs).pages.length, 3);
  assert.deepEqual([...replayPages(set)], [1, 2]);
  assert.ok(set.dropped > 0);
});
