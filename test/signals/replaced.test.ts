/** Signal handlers that somebody else puts over ours are noticed on every thread, and ours are put back over them. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { map, type Segment } from 'pagefault';
import { zero } from 'pagefault/stores';
import { native } from '#dist/native/load.js';
import type { Noticed } from '../fixtures/noticed.js';
import type { Step } from '../fixtures/replaced.js';
import { root, runNode } from '../helpers/run.js';
import { backends, onEachBackend } from '../helpers/stores.js';

const folder = mkdtempSync(join(tmpdir(), 'pagefault-replace-'));
after(() => rmSync(folder, { recursive: true, force: true }));

/** Builds the addon in one of its kinds. */
async function addon(name: string, ...defines: string[]): Promise<string> {
  const path = join(folder, `${name}.node`);
  const source = join(root, 'test', 'helpers', 'replace-handlers.c');
  const [command = 'cc', ...prefix] = (process.env['CC'] || 'cc').split(' ').filter(Boolean);
  const flags = ['-Wall', '-Wextra', '-Werror', '-shared', '-fPIC', '-pthread'];
  const args = [...prefix, ...flags, ...defines.map((word) => `-D${word}`), source, '-o', path];
  const [status] = await once(spawn(command, args, { stdio: ['ignore', 'ignore', 'inherit'] }), 'close');
  assert.equal(status, 0, name);
  return `${name}=${path}`;
}

const addons = Promise.all([
  addon('pass', 'CHAIN'),
  addon('once', 'CHAIN', 'ONCE'),
  addon('plain-chain', 'CHAIN', 'PLAIN'),
  addon('plain', 'PLAIN'),
  addon('no-info', 'NO_INFO'),
  addon('gone', 'CHAIN').then((gone) => addon('unloaded', `UNLOADED="${gone.split('=')[1]}"`)),
  addon('again', 'CHAIN', 'AGAIN'),
  addon('swallow'),
]);

async function replaced(args: readonly string[]): Promise<Step[]> {
  const script = fileURLToPath(new URL('../fixtures/replaced.js', import.meta.url));
  const { code, signal, stdout, stderr } = await runNode(script, args, { timeoutMs: 60_000 });
  assert.equal(code, 0, `${signal} ${stderr} ${stdout}`);
  return JSON.parse(stdout) as Step[];
}

onEachBackend('whatever replaces our handlers, pages come right and WebAssembly traps', async (backend) => {
  const [pass, onlyOnce, plainChain, plain, noInfo, unloaded, again, swallow] = (await addons) as [string, ...string[]];
  const ons = ['on:SIGSEGV', 'on:SIGBUS', 'off:SIGSEGV'];
  const names = [pass, onlyOnce, plainChain, ...ons, plain, noInfo, unloaded, again, swallow];
  const steps = await replaced([backend, ...names.map(String)]);
  for (const { name, wrong, traps, reinstalls, forwarded } of steps) {
    assert.equal(wrong, 0, name);
    assert.ok(traps, `WebAssembly traps after ${name}`);
    assert.ok(reinstalls > 0, name);
    if (name !== 'swallow') assert.ok(forwarded > 0, `${name}: the trap was counted`);
  }
});

/** More than a burst of the machine takes. */
const LATE_MS = 20_000;

test(`replaced handlers are noticed within pollIntervalMs, a second by default [${backends.join(', ')}]`, async () => {
  const script = fileURLToPath(new URL('../fixtures/noticed.js', import.meta.url));
  const all = backends.map((backend) => runNode(script, [backend, '100'], { timeoutMs: 90_000 }));
  for (const { code, signal, stdout, stderr } of await Promise.all(all)) {
    assert.equal(code, 0, `${signal} ${stderr} ${stdout}`);
    const { usual, often, told } = JSON.parse(stdout) as Noticed;
    for (const ms of [...usual, ...often, ...told]) assert.ok(ms < 1000 + LATE_MS, stdout);
    // The least of them is what it takes where nothing else gets in between.
    assert.ok(Math.min(...usual) < 3000, stdout);
    assert.ok(Math.min(...often) < 0.75 * Math.min(...usual), stdout);
  }
});

onEachBackend('the smallest pollIntervalMs of all open segments counts, in every thread', async (backend) => {
  const interval = (): number => native().pollInterval();
  const make = (pollIntervalMs?: number): Promise<Segment> =>
    map(zero(4096), { backend, ...(pollIntervalMs === undefined ? {} : { pollIntervalMs }) });
  const rare = await make(3_600_000);
  assert.equal(interval(), 3_600_000);
  const usual = await make();
  assert.equal(interval(), 1000);
  const often = [await make(10), await make(10)];
  assert.equal(interval(), 10);
  for (const segment of often) {
    assert.equal(interval(), 10);
    await segment.close();
  }
  assert.equal(interval(), 1000);
  await usual.close();
  assert.equal(interval(), 3_600_000);
  await rare.close();
});
