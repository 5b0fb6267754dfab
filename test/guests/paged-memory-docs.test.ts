/** The examples of the child's side run as they stand: those of docs/guests/spawn-paged.md, and the one in the header. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { byteAt, Parent } from '../helpers/guest-parent.js';
import { root } from '../helpers/run.js';

/** Inside the package, so that 'pagefault' is found by its own name. */
const folder = join(root, 'build', 'guest-docs');
const STORE = 64 * 4096;

before(() => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
});
after(() => rmSync(folder, { recursive: true, force: true }));

const page = readFileSync(join(root, 'docs', 'guests', 'spawn-paged.md'), 'utf8');
const header = readFileSync(join(root, 'include', 'pagefault_guest.h'), 'utf8');

function found(text: string, pattern: RegExp): string {
  return pattern.exec(text)?.[1] ?? assert.fail(`there is no ${pattern}`);
}

async function outputOf(command: string, args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await new Parent(command, args).ended();
  assert.equal(code, 0, stderr);
  assert.equal(stderr, '');
  return stdout;
}

async function outputOfC(name: string, code: string): Promise<string> {
  const source = join(folder, `${name}.c`);
  const program = join(folder, name);
  writeFileSync(source, code);
  const args = ['-Wall', '-Wextra', '-Werror', '-pthread', '-I', join(root, 'include'), source, '-o', program];
  const [command = 'cc', ...prefix] = (process.env['CC'] || 'cc').split(' ').filter(Boolean);
  const built = spawnSync(command, [...prefix, ...args], { encoding: 'utf8' });
  assert.equal(built.status, 0, built.stderr);
  return outputOf(program, []);
}

test('the Node example of the docs runs', async () => {
  const path = join(folder, 'child.js');
  writeFileSync(path, found(page, /^```js\n(\/\/ child\.js\n.*?)^```$/ms));
  assert.equal(await outputOf(process.execPath, [path]), `${STORE} ${byteAt(0)} ${byteAt(STORE - 1)}\n`);
});

test('the C example of the docs runs', async () => {
  const code = found(page, /^```c\n(#include.*?)^```$/ms);
  assert.equal(await outputOfC('docs', code), `the store begins with ${byteAt(0)}\n`);
});

test('the example at the top of the header runs', async () => {
  const code = found(header, /^ \* {3}(#include "pagefault_guest\.h".*?^ \* {3}\})$/ms).replace(/^ \*( {3})?/gm, '');
  assert.equal(await outputOfC('header', code), `the store begins with ${byteAt(0)}\n`);
});
