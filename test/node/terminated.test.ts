/** A Worker that is terminated while its transfers are under way takes nothing with it that they still use. */

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import { runNode } from '../helpers/run.js';
import { onEachBackend } from '../helpers/stores.js';

/** Workers for each backend. Two find in most runs what there was to be found. */
const ROUNDS = process.env['PAGEFAULT_TERMINATIONS'] ?? '2';

onEachBackend('the process goes on, and nothing is left of the segments', async (backend) => {
  const script = fileURLToPath(new URL('../fixtures/transferring.js', import.meta.url));
  const { code, signal, stderr } = await runNode(script, [backend, ROUNDS], { timeoutMs: 100_000 });
  assert.deepEqual({ code, signal }, { code: 0, signal: null }, stderr);
});
