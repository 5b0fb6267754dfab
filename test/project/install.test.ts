/** The package as its users get it: a tarball, installed without running any script, that works. */
import assert from 'node:assert/strict';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { root, run, runNode } from '../helpers/run.js';

/** Packs a copy of what the build made: packing the clone itself would rebuild it under the other tests. */
async function packed(folder: string): Promise<string> {
  const copy = join(folder, 'copy');
  for (const part of [
    'dist',
    'build/Release',
    'native',
    'scripts',
    'package.json',
    'README.md',
    'LICENSE',
    'CHANGELOG.md',
  ]) {
    cpSync(join(root, part), join(copy, part), { recursive: true });
  }
  const prebuilt = await runNode(join(copy, 'scripts/prebuild.mjs'));
  assert.equal(prebuilt.code, 0, prebuilt.stderr);
  const ran = await run('npm', ['pack', '--ignore-scripts', '--pack-destination', folder], { cwd: copy });
  assert.equal(ran.code, 0, ran.stderr);
  const tarball = readdirSync(folder).find((name) => name.endsWith('.tgz'));
  assert.ok(tarball, ran.stdout);
  return join(folder, tarball);
}

test('the packed package installs without scripts and works', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-install-'));
  try {
    const tarball = await packed(folder);
    const user = join(folder, 'user');
    mkdirSync(user);
    writeFileSync(join(user, 'package.json'), '{ "type": "module", "private": true }\n');
    const installed = await run(
      'npm',
      ['install', '--ignore-scripts', '--offline', '--no-audit', '--no-fund', tarball],
      { cwd: user },
    );
    assert.equal(installed.code, 0, installed.stderr);
    writeFileSync(
      join(user, 'main.js'),
      `import { isSupported, map } from 'pagefault';
import { memory } from 'pagefault/stores';
const segment = await map(memory(new Uint8Array(100_000).fill(7)));
console.log(isSupported(), segment.view(Uint8Array)[99_999]);
await segment.close();
`,
    );
    const ran = await runNode(join(user, 'main.js'), [], { cwd: user });
    assert.equal(ran.stdout, 'true 7\n', ran.stderr);
    const doctor = await run(join(user, 'node_modules/.bin/pagefault'), ['doctor', '--json'], { cwd: user });
    assert.equal(doctor.code, 0, doctor.stderr);
    JSON.parse(doctor.stdout);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
