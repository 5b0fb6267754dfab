/**
 * Everything at once, and for as long as one likes: `PAGEFAULT_MIXED_SECONDS=3600 node scripts/test.mjs torture/mixed`. `PAGEFAULT_MIXED_SEED` repeats a run (as far as
 * threads allow), `PAGEFAULT_MIXED_SEGMENTS` says how many segments are open at once.
 */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { compileAddon } from '../helpers/compile-c.js';
import { runNode } from '../helpers/run.js';
import { writableBackends } from '../helpers/writable.js';

const program = fileURLToPath(new URL('../fixtures/mixed.js', import.meta.url));
const seconds = Number(process.env['PAGEFAULT_MIXED_SECONDS'] ?? 6);
const segments = process.env['PAGEFAULT_MIXED_SEGMENTS'] ?? (seconds < 30 ? '800' : '10000');
const seed = process.env['PAGEFAULT_MIXED_SEED'] ?? String(Date.now() % 1_000_000);
const timeout = (2 * seconds + 240) * 1000;

const name = `eight threads work on ${segments} segments of every kind: every byte is right, and nothing grows`;
test(name, { timeout: timeout + 10_000 }, async (t) => {
  if (writableBackends.length === 0) return t.skip('nothing can be written here');
  const args = [program, String(seconds), segments, seed, writableBackends.join(','), compileAddon('pressure.c')];
  t.diagnostic(`seed ${seed}`);
  const { code, signal, stdout, stderr } = await runNode('--expose-gc', args, { timeoutMs: timeout });
  for (const line of stdout.trim().split('\n')) t.diagnostic(line);
  // What threads that were ended had not flushed is told of in a line each.
  const said = stderr.split('\n').filter((line) => !/was not closed: \d+ bytes that were written/.test(line));
  assert.deepEqual({ code, signal }, { code: 0, signal: null }, `seed ${seed}: ${said.join('\n')}`);
  assert.match(stdout, /^right in \d+ rounds$/m);
});
