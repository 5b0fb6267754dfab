import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

let root = dirname(fileURLToPath(import.meta.url));
while (!existsSync(join(root, 'package.json'))) root = dirname(root);

interface Manifest {
  version: string;
  exports: Record<string, string | Record<string, string>>;
  bin: Record<string, string>;
  dependencies?: unknown;
  optionalDependencies?: unknown;
  gypfile: boolean;
  scripts: Record<string, string>;
  engines: { node: string };
}

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as Manifest;

function filesBelow(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name));
}

test('every entry of exports and bin is a file that the build makes', () => {
  const targets = Object.values(manifest.exports).flatMap((entry) =>
    typeof entry === 'string' ? [entry] : Object.values(entry),
  );
  for (const target of [...targets, ...Object.values(manifest.bin)]) assert.ok(existsSync(join(root, target)), target);
});

test('installing runs nothing and brings nothing', () => {
  for (const script of ['preinstall', 'install', 'postinstall']) assert.equal(manifest.scripts[script], undefined);
  assert.equal(manifest.gypfile, false);
  assert.equal(manifest.dependencies, undefined);
  assert.equal(manifest.optionalDependencies, undefined);
  assert.equal(existsSync(join(root, 'binding.gyp')), false);
});

test('the lockfile names no registry', () => {
  assert.doesNotMatch(readFileSync(join(root, 'package-lock.json'), 'utf8'), /"resolved"/);
});

test('the changelog tells of this version or of what is to come', () => {
  assert.match(
    readFileSync(join(root, 'CHANGELOG.md'), 'utf8'),
    new RegExp(`## \\[(Unreleased|${manifest.version})\\]`),
  );
});

test('every source file begins with a comment that says what it is', () => {
  for (const name of filesBelow('src').filter((file) => file.endsWith('.ts'))) {
    const text = readFileSync(join(root, name), 'utf8');
    assert.ok(/^(#!.*\n)?(\/\*\*|\/\/)/.test(text) || name.endsWith('index.ts'), name);
  }
});

test('imports go downward only', () => {
  const layers = ['errors', 'options', 'native', 'kernel', 'stores', 'pager', 'segment', 'observe', 'cli'];
  for (const name of filesBelow('src').filter((file) => file.endsWith('.ts'))) {
    const layer = name.split('/')[1] ?? '';
    if (!layers.includes(layer)) continue;
    for (const [, other = ''] of readFileSync(join(root, name), 'utf8').matchAll(/ from '\.\.\/([a-z]+)\//g)) {
      if (layer === 'errors' && other === 'native') continue; // types of the contract only
      assert.ok(layers.indexOf(other) <= layers.indexOf(layer), `${name} imports from ${other}/`);
    }
  }
});
