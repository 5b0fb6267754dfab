/** How a process ends while a page is waited for: soon, with the code or signal it would have, never with zeroes. */

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Backend } from 'pagefault';
import { type Ran, type RunOptions, runNode } from '../helpers/run.js';
import { onEachBackend } from '../helpers/stores.js';

const script = fileURLToPath(new URL('../fixtures/ending.js', import.meta.url));

interface Ended extends Ran {
  ms: number;
}

async function ending(backend: Backend, scenario: readonly string[], options: RunOptions = {}): Promise<Ended> {
  const start = performance.now();
  const ran = await runNode(script, [backend, ...scenario], { timeoutMs: 60_000, ...options });
  return { ...ran, ms: performance.now() - start };
}

onEachBackend(
  'process.exit() ends the process with its code while another thread waits for a page',
  async (backend) => {
    const { code, stderr, ms } = await ending(backend, ['process.exit']);
    assert.equal(code, 7, stderr);
    assert.ok(ms < 30_000, `${ms} ms`);
    assert.doesNotMatch(stderr, /^touched/m);
  },
);

onEachBackend('process.exitCode counts too', async (backend) => {
  const { code, stderr } = await ending(backend, ['process.exit by the Worker that runs nothing']);
  assert.equal(code, 5, stderr);
  assert.doesNotMatch(stderr, /^touched/m);
});

onEachBackend('an uncaught exception ends the process while another thread waits for a page', async (backend) => {
  const { code, stderr, ms } = await ending(backend, ['uncaught exception']);
  assert.equal(code, 1, stderr);
  assert.match(stderr, /nobody catches this/);
  assert.doesNotMatch(stderr, /^touched/m);
  assert.ok(ms < 30_000, `${ms} ms`);
});

onEachBackend('a Worker that is terminated while it waits ends once the page is there', async (backend) => {
  const { code, stderr } = await ending(backend, ['terminate']);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /terminated 1/);
  assert.doesNotMatch(stderr, /^touched/m);
});

onEachBackend('an open segment does not keep the process', async (backend) => {
  const { code, stderr, ms } = await ending(backend, ['natural end']);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /read \d+/);
  assert.ok(ms < 30_000, `${ms} ms`);
});

onEachBackend('SIGTERM ends a process whose main thread waits for a page', async (backend) => {
  const { signal, stderr, ms } = await ending(backend, ['SIGTERM'], {
    onSpawn: (child) => {
      let told = '';
      child.stderr?.on('data', (text: string) => {
        told += text;
        if (told.includes('touching')) setTimeout(() => child.kill('SIGTERM'), 200);
      });
    },
  });
  assert.equal(signal, 'SIGTERM', stderr);
  assert.ok(ms < 30_000, `${ms} ms`);
  assert.doesNotMatch(stderr, /^touched/m);
});

for (const [mode, code, reason] of [
  ['throw', 'ERR_PAGEFAULT_STORE', /thrown at 40960/],
  ['short', 'ERR_PAGEFAULT_SHORT_READ', /4095 of 4096/],
  ['never', 'ERR_PAGEFAULT_TIMEOUT', /did not answer/],
  ['exit', 'ERR_PAGEFAULT_STORE_GONE', /exited with code 3/],
] as const) {
  onEachBackend(`a raw touch of a page whose store does "${mode}" ends the process with a report`, async (backend) => {
    const { signal, stderr } = await ending(backend, ['raw touch', mode]);
    assert.equal(signal, backend === 'mprotect' || backend === 'thread' ? 'SIGSEGV' : 'SIGBUS', stderr);
    assert.match(stderr, /segment: the one/);
    assert.match(stderr, /store: +custom\(faulty\.js\)/);
    assert.match(stderr, /offset: +40960/);
    assert.match(stderr, new RegExp(code));
    assert.match(stderr, reason);
    assert.doesNotMatch(stderr, /^touched/m);
  });
}

onEachBackend('a raw write to a segment ends the process with a report that names the option', async (backend) => {
  const { signal, code, stderr } = await ending(backend, ['raw write']);
  assert.ok(signal !== null || (code ?? 0) > 128, `${signal} ${code} ${stderr}`);
  assert.match(stderr, /writable/);
  assert.match(stderr, /the one/);
  assert.doesNotMatch(stderr, /written/);
});
