/** docs/kernel.md names the tests of what the kernel does: all of them, and none that is not there. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { root } from '../../helpers/run.js';

const folder = join(root, 'test', 'kernel');
const [, part = ''] = readFileSync(join(root, 'docs', 'kernel.md'), 'utf8').split('\n## What the kernel does');

/** Names of the facts in a file, as they stand in its source. */
function facts(file: string): string[] {
  const text = readFileSync(join(folder, 'facts', file), 'utf8');
  return [...text.matchAll(/^fact\(\s*'([^']+)'/gm)].map(([, name = '']) => name);
}

test('docs/kernel.md lists every fact under its file, in order', () => {
  const listed = Object.fromEntries(
    [...part.matchAll(/^`(\S+\.test\.ts)`\n\n((?:- .*\n)+)/gm)].map(([, file = '', lines = '']) => [
      file,
      lines
        .trim()
        .split('\n')
        .map((line) => line.slice(2)),
    ]),
  );
  const files = readdirSync(join(folder, 'facts')).filter((name) => name !== 'documented.test.ts');
  assert.deepEqual(Object.keys(listed).sort(), files.sort());
  for (const file of files) assert.deepEqual(listed[file], facts(file), file);
});

test('the other tests that docs/kernel.md names exist', () => {
  const rows = [...part.matchAll(/^\| .* \| `(\S+)` \| (.*) \|$/gm)];
  assert.ok(rows.length > 0);
  for (const [, file = '', name = ''] of rows) {
    assert.ok(readFileSync(join(folder, file), 'utf8').includes(`'${name}'`), `${file} has no test '${name}'`);
  }
});
