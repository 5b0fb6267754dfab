/** Signal handlers that somebody else puts over ours are noticed, and ours are put back. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Backend } from 'pagefault';
import { root, runNode } from '../helpers/run.js';
import { onEachBackend } from '../helpers/stores.js';

const folder = mkdtempSync(join(tmpdir(), 'pagefault-replace-'));
after(() => rmSync(folder, { recursive: true, force: true }));

function addon(name: string, flags: readonly string[]): string {
  const path = join(folder, `${name}.node`);
  const source = join(root, 'test', 'helpers', 'replace-handlers.c');
  const [command = 'cc', ...prefix] = (process.env['CC'] || 'cc').split(' ').filter(Boolean);
  const args = [...prefix, '-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', ...flags, source, '-o', path];
  const built = spawnSync(command, args, { encoding: 'utf8' });
  assert.equal(built.status, 0, built.stderr);
  return path;
}

interface Seen {
  wrong: number;
  told: number;
  handlerReinstalls: number;
  waited: number;
  traps: boolean;
}

async function replacedBy(backend: Backend, path: string, ...more: string[]): Promise<Seen> {
  const script = fileURLToPath(new URL('../fixtures/replaced.js', import.meta.url));
  const { code, signal, stdout, stderr } = await runNode(script, [backend, path, ...more], { timeoutMs: 30_000 });
  assert.equal(code, 0, `${signal} ${stderr}`);
  return JSON.parse(stdout) as Seen;
}

onEachBackend('a handler that passes on what is not its own is noticed and ours put back over it', async (backend) => {
  const { wrong, told, handlerReinstalls, waited, traps } = await replacedBy(
    backend,
    addon('pass', ['-DPASS_ON']),
    'trap',
  );
  assert.equal(wrong, 0);
  assert.ok(told > 0, 'handlerlost was told');
  assert.ok(handlerReinstalls > 0);
  assert.ok(traps, 'WebAssembly still traps through both');
  assert.ok(waited < 3000, `${waited} ms`);
});

onEachBackend('a handler that swallows faults stops a thread for a moment only', async (backend) => {
  const { wrong, told, handlerReinstalls, waited } = await replacedBy(backend, addon('swallow', []));
  assert.equal(wrong, 0);
  assert.ok(told > 0, 'handlerlost was told');
  assert.ok(handlerReinstalls > 0);
  assert.ok(waited < 6000, `${waited} ms`);
});
