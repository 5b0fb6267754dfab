/** Processes that end at random moments while threads fault: with the right code, soon, and without a wrong byte. */

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Backend } from 'pagefault';
import { runNode } from '../helpers/run.js';
import { onEachBackend } from '../helpers/stores.js';

const program = fileURLToPath(new URL('../fixtures/sudden.js', import.meta.url));
const ROUNDS = 7;
const AT_ONCE = 3;
/** From the moment on; starting takes the machine's time. */
const SOON_MS = 8000;

const endings: [how: string, code: number | null, signal: NodeJS.Signals | null][] = [
  ['exit', 7, null],
  ['exception', 1, null],
  ['terminate', 3, null],
  ['signal', null, 'SIGTERM'],
];

async function end(backend: Backend, how: string, after: number): Promise<{ text: string; ms: number }> {
  let begun = 0;
  const ran = await runNode(program, [backend, how, String(after)], {
    timeoutMs: 40_000,
    onSpawn: (child) => {
      child.stdout?.once('data', () => {
        begun = performance.now();
        if (how === 'signal') setTimeout(() => child.kill('SIGTERM'), after);
      });
    },
  });
  assert.ok(begun > 0, `it did not begin: ${ran.stderr}`);
  const found = endings.find(([name]) => name === how);
  const text = `${how} after ${after} ms: code ${ran.code}, signal ${ran.signal}, ${ran.stderr.slice(0, 600)}`;
  assert.equal(ran.code, found?.[1], text);
  assert.equal(ran.signal, found?.[2], text);
  return { text, ms: performance.now() - begun - after };
}

for (const [how] of endings) {
  onEachBackend(`a process ends well by ${how} at any moment while threads fault`, async (backend) => {
    const moments = Array.from({ length: ROUNDS }, () => Math.floor(Math.random() * 60));
    const one = async (): Promise<void> => {
      for (let after = moments.pop(); after !== undefined; after = moments.pop()) {
        const { text, ms } = await end(backend, how, after);
        assert.ok(ms < SOON_MS, `${ms} ms: ${text}`);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
  });
}
