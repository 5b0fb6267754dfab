/** Two thousand signals a second to each of eight threads that fault: the right bytes, each page read once, and no call that fails. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { root, runNode } from '../helpers/run.js';
import { backends } from '../helpers/stores.js';

test(`eight threads fault under a flood of SIGPROF and SIGUSR1 [${backends.join(', ')}]`, async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-flood-'));
  try {
    const addon = join(folder, 'flood.node');
    const [command = 'cc', ...prefix] = (process.env['CC'] || 'cc').split(' ').filter(Boolean);
    const flags = ['-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-pthread'];
    const args = [...prefix, ...flags, join(root, 'test/helpers/flood.c'), '-o', addon];
    assert.equal(spawnSync(command, args, { stdio: ['ignore', 'ignore', 'inherit'] }).status, 0);
    const script = fileURLToPath(new URL('../fixtures/flooded.js', import.meta.url));
    const { code, signal, stdout, stderr } = await runNode(script, [addon, ...backends], { timeoutMs: 90_000 });
    assert.equal(code, 0, `${signal} ${stderr}`);
    const { wrong, reads, pages } = JSON.parse(stdout) as { wrong: number; reads: number[]; pages: number };
    assert.equal(wrong, 0);
    for (const count of reads) assert.equal(count, pages, 'each page was read once');
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
