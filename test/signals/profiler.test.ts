/** V8's CPU profiler sends a signal ten thousand times a second: pages come right all the same, and deadlines hold. */

import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { runNode } from '../helpers/run.js';
import { onEachBackend } from '../helpers/stores.js';

onEachBackend('faults, attempts and waits go on under --cpu-prof', async (backend) => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-profile-'));
  try {
    const script = fileURLToPath(new URL('../fixtures/profiled.js', import.meta.url));
    const flags = ['--cpu-prof-interval', '100', '--cpu-prof-dir', folder, script, backend];
    const { code, signal, stdout, stderr } = await runNode('--cpu-prof', flags, { timeoutMs: 60_000 });
    assert.equal(code, 0, `${signal} ${stderr}`);
    const { faults, refused, wrong, waited } = JSON.parse(stdout) as Record<string, number>;
    assert.equal(wrong, 0);
    assert.ok((faults ?? 0) > 100, `${faults} faults`);
    if (process.arch === 'x64') assert.ok((refused ?? 0) > 100, `${refused} refused`);
    assert.ok((waited ?? 0) >= 290 && (waited ?? 0) < 20_000, `${waited} ms`);
    assert.ok(readdirSync(folder).some((name) => name.endsWith('.cpuprofile')));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
