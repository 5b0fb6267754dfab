/** The core is loaded more than once in a thread, by tools that clear the cache of modules: Node ends a process whose addon asks for the same call at its end twice. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runNode } from '../helpers/run.js';

const script = fileURLToPath(new URL('../fixtures/loaded-again.js', import.meta.url));

test('the core can be loaded again in the same thread', { timeout: 120_000 }, async () => {
  const { code, stdout, stderr } = await runNode(script);
  assert.equal(code, 0, stderr);
  assert.equal(stdout, 'loaded again\n');
});
