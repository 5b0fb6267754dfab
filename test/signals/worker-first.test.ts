/** The core is loaded first in a Worker that ends before others use it, or in Workers only: handlers, threads and memory stay usable. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runNode } from '../helpers/run.js';
import { backends, onEachBackend } from '../helpers/stores.js';

const script = fileURLToPath(new URL('../fixtures/worker-first.js', import.meta.url));

async function run(...args: string[]): Promise<void> {
  const { code, signal, stdout, stderr } = await runNode(script, args, { timeoutMs: 60_000 });
  assert.equal(code, 0, `${signal} ${stderr}`);
  assert.deepEqual(JSON.parse(stdout), { wrong: 0 });
}

test('Workers page one after the other, and the main thread never does', () => run(backends[0] ?? ''));

onEachBackend('the main thread pages after Workers that have ended', (backend) => run(backend, 'main'));
