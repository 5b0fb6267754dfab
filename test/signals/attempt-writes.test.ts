/** attempt(): every way of writing memory goes on over a page that cannot be had or must not be written, and nothing of it arrives. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runNode } from '../helpers/run.js';
import { backends } from '../helpers/stores.js';

// Elsewhere one instruction cannot be stepped over, so that a raw touch of such a page ends the process there.
const skip = process.arch === 'x64' ? false : 'attempt() of raw touches needs x64';
const script = fileURLToPath(new URL('../fixtures/attempting-writes.js', import.meta.url));

const modes = [
  ['unreadable', 'a page that cannot be read'],
  ['refused', 'a page whose store refuses writes'],
] as const;

for (const backend of backends) {
  for (const [mode, what] of modes) {
    for (const flags of [[], ['--no-opt'], ['--jitless']]) {
      const how = flags.length === 0 ? '' : ` with ${flags.join(' ')}`;
      test(`every way of writing to ${what} throws a PageError and writes nothing${how} [${backend}]`, {
        skip,
      }, async () => {
        const [first = script, ...rest] = [...flags, script, backend, mode];
        const { code, signal, stdout, stderr } = await runNode(first, rest, { timeoutMs: 120_000 });
        assert.equal(code, 0, `${signal} ${stderr}`);
        assert.deepEqual(JSON.parse(stdout), []);
      });
    }
  }
}
