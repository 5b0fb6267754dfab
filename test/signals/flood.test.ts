/**
 * A thousand SIGPROF and a thousand SIGUSR1 a second to each of eight threads that fault: the right bytes, each page read
 * once, no call that fails, and no signal that is lost.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Flooded } from '../fixtures/flooded.js';
import { compileAddon } from '../helpers/compile-c.js';
import { runNode } from '../helpers/run.js';
import { backends } from '../helpers/stores.js';

const THREADS = 8;
/** Less than what test/fixtures/flooded.ts waits for. */
const PLAUSIBLE = 100;

test(`eight threads fault under a flood of SIGPROF and SIGUSR1, and get them [${backends.join(', ')}]`, async () => {
  const script = fileURLToPath(new URL('../fixtures/flooded.js', import.meta.url));
  const args = [compileAddon('flood.c'), ...backends];
  const { code, signal, stdout, stderr } = await runNode(script, args, { timeoutMs: 180_000 });
  assert.equal(code, 0, `${signal} ${stderr}`);
  const { wrong, reads, pages, signals } = JSON.parse(stdout) as Flooded;
  assert.equal(wrong, 0);
  for (const count of reads) assert.equal(count, pages, 'each page was read once');
  assert.equal(signals.length, 2 * THREADS);
  for (const { sent, arrived } of signals) {
    assert.ok(arrived >= PLAUSIBLE, stdout);
    assert.ok(arrived >= sent - 1, `none is lost but the last, which is on its way: ${stdout}`);
  }
});
