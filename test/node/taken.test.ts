/** A buffer that was taken away from its segment cannot be detached by `close`: it must not show memory that is somebody else's by then. */

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { type Backend, map } from 'pagefault';
import { memory } from 'pagefault/stores';
import { native } from '#dist/native/load.js';
import { taken } from '../fixtures/take.js';
import { until } from '../helpers/descriptors.js';
import { runNode } from '../helpers/run.js';
import { onEachBackend, patternBytes } from '../helpers/stores.js';
import { PAGE } from '../helpers/writable.js';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;
/** Node.js 20 has no transfer(). */
const ways = 'transfer' in ArrayBuffer.prototype ? ['transfer', 'stream'] : ['stream'];

onEachBackend('after close, a touch of it ends the process with a report that says so', async (backend) => {
  const script = fileURLToPath(new URL('../fixtures/taken.js', import.meta.url));
  for (const way of ways) {
    const { code, signal, stdout, stderr } = await runNode(script, [backend, way], { timeoutMs: 60_000 });
    assert.equal(stdout, '65536 5 5\nclosed\n', stderr);
    assert.ok(code !== 0 || signal !== null);
    assert.match(stderr, /segment: taken[\s\S]*segment closed/);
  }
});

async function takeAndClose(backend: Backend, way: string): Promise<void> {
  const segment = await map(memory(patternBytes(8 * PAGE)), { backend });
  const bytes = await taken(segment, way === 'transfer');
  assert.deepEqual(new Uint8Array(bytes), patternBytes(8 * PAGE));
  assert.throws(() => segment.view(Uint8Array), { code: 'ERR_PAGEFAULT_NULL_BASE' });
  await segment.close();
}

onEachBackend('it is freed when it is collected, and so is the segment', async (backend) => {
  const before = native().census().regions;
  for (const way of ways) await takeAndClose(backend, way);
  await until(() => {
    gc();
    return native().census().regions <= before;
  }, 30_000);
});
