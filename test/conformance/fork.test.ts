/** Children that do not exec: they end, and their parent goes on. More, under threads that fault: native/test/fork_test.c. */

import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { compileAddon } from '../helpers/compile-c.js';
import { runNode } from '../helpers/run.js';
import { onEachBackend } from '../helpers/stores.js';

const script = fileURLToPath(new URL('../fixtures/forking.js', import.meta.url));
let addon: string | undefined;

interface Seen {
  wrong: string[];
  ended: Record<string, number>;
}

onEachBackend('a forked child has no segment, and its parent is as it was', async (backend) => {
  addon ??= compileAddon('forking.c');
  const { code, signal, stdout, stderr } = await runNode(script, [backend, addon], { timeoutMs: 60_000 });
  assert.equal(code, 0, `${signal} ${stdout} ${stderr}`);
  const seen = JSON.parse(stdout) as Seen;
  assert.deepEqual(seen.wrong, []);
  const { JavaScript: goesOn, 'shares the memory': sharing, ...touches } = seen.ended;
  assert.equal(sharing, 98, 'a child that shares the memory is served');
  assert.equal(goesOn, -constants.signals.SIGSEGV, 'no call can be made in the child');
  assert.ok(Object.keys(touches).length >= 40);
  for (const [name, how] of Object.entries(touches)) assert.equal(how, -constants.signals.SIGSEGV, name);
  const reports = stderr.match(/a forked child touched a segment of its parent/g) ?? [];
  assert.equal(reports.length, Object.keys(touches).length, stderr);
  for (const name of ['plain', 'budgeted', 'in a buffer', 'in wasm', 'shared', 'patched', 'scripted']) {
    assert.match(stderr, new RegExp(`segment: ${name}\n`), name);
  }
  assert.match(stderr, /offset: {2}4101\n/);
});
