/**
 * Every JavaScript block of the README and of docs/ runs as it stands. A block that begins with `// name.js` is a file
 * that a later block of the page imports; vectors.f32 is there, as the texts assume.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { root, runNode } from '../helpers/run.js';

/** Inside the package, so that 'pagefault' is found by its own name. */
const folder = join(root, 'build', 'docs');

interface Block {
  page: string;
  number: number;
  code: string;
}

function pages(): string[] {
  const docs = readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' });
  return ['README.md', ...docs.filter((name) => name.endsWith('.md')).map((name) => join('docs', name))];
}

function blocksOf(page: string): Block[] {
  const text = readFileSync(join(root, page), 'utf8');
  return [...text.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code = ''], i) => ({ page, number: i + 1, code }));
}

before(() => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(
    join(folder, 'vectors.f32'),
    Float32Array.from({ length: 2 ** 24 }, (_, i) => i),
  );
});
after(() => rmSync(folder, { recursive: true, force: true }));

for (const block of pages().flatMap(blocksOf)) {
  const name = /^\/\/ (\S+\.js)\n/.exec(block.code)?.[1];
  test(`block ${block.number} of ${block.page} ${name === undefined ? 'runs' : `is ${name}`}`, async () => {
    const path = join(folder, name ?? 'block.js');
    writeFileSync(path, block.code);
    if (name !== undefined) return;
    const { code, stdout, stderr } = await runNode(path, [], { cwd: folder });
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    for (const [, promised = ''] of block.code.matchAll(/console\.log\(.*\); \/\/ ([\d. ]+)$/gm)) {
      assert.ok(stdout.split('\n').includes(promised), `${promised} is not in:\n${stdout}`);
    }
  });
}

test('the files that the README and the docs link to exist', () => {
  for (const page of pages()) {
    const text = readFileSync(join(root, page), 'utf8');
    for (const [, target = ''] of text.matchAll(/\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)/g)) {
      assert.ok(existsSync(join(root, page, '..', target)), `${page} links to ${target}`);
    }
  }
});
