/** V8's and Node's tools while pages are missing: snapshots, the inspector, profiles, asynchronous hooks, and the flags that stress the collector. */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../helpers/run.js';
import { onEachBackend } from '../helpers/stores.js';

const script = fileURLToPath(new URL('../fixtures/tooled.js', import.meta.url));

/** In Node.js 20, 22, 24 and 26. */
const flagSets: Record<string, readonly string[]> = {
  'the profilers of CPU and heap': ['--cpu-prof', '--cpu-prof-interval', '200', '--heap-prof'],
  'a collector under stress': [
    '--gc-interval=500',
    '--stress-compaction',
    '--stress-scavenge=50',
    '--stress-marking=50',
  ],
};

for (const [name, flags] of Object.entries(flagSets)) {
  onEachBackend(`snapshots, the inspector and hooks work while pages are missing, with ${name}`, async (backend) => {
    const folder = mkdtempSync(join(tmpdir(), 'pagefault-tools-'));
    try {
      const options = { cwd: folder, timeoutMs: 120_000 };
      const { code, signal, stdout, stderr } = await run(process.execPath, [...flags, script, backend], options);
      assert.equal(code, 0, `${signal} ${stderr}`);
      assert.deepEqual(JSON.parse(stdout.trim().split('\n').at(-1) ?? ''), []);
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
}
