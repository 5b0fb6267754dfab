/** Memory that exists, in trouble: written though it is read-only, collected, left by Workers that end, growing under eight threads. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { type Backend, map } from 'pagefault';
import { custom, file } from 'pagefault/stores';
import { makeMemory, WASM_PAGE } from '../fixtures/wasm.js';
import { type Ran, runNode } from '../helpers/run.js';
import { backends, onEachBackend, patternFile, patternModule } from '../helpers/stores.js';
import { type WritableKind, writableStore } from '../helpers/writable.js';

const script = fileURLToPath(new URL('../fixtures/adopted.js', import.meta.url));

function adopted(backend: Backend, scenario: string, env = process.env): Promise<Ran> {
  return runNode('--expose-gc', [script, backend, scenario], { timeoutMs: 60_000, env });
}

function assertReport({ signal, stdout, stderr }: Ran, report: RegExp): void {
  assert.ok(signal === 'SIGBUS' || signal === 'SIGSEGV', `${signal}: ${stderr}`);
  assert.doesNotMatch(stdout, /written|touched/);
  assert.match(stderr, report);
}

onEachBackend('a write to a read-only segment ends the process with a report that names writable', async (backend) => {
  const ran = await adopted(backend, 'write to a missing page');
  assert.match(ran.stdout, /writing/);
  assertReport(ran, /option writable was not set[\s\S]*read-only one/);
});

test('so does one to a page that is there, once V8 has made the memory writable by growing it [signal]', async (t) => {
  if (!backends.includes('signal')) return t.skip('no userfaultfd here');
  const ran = await adopted('signal', 'write after growth');
  assert.match(ran.stdout, /writing/);
  assertReport(ran, /option writable was not set[\s\S]*read-only one/);
});

onEachBackend('a touch of closed memory ends the process with "segment closed", never with zeroes', async (backend) => {
  const ran = await adopted(backend, 'closed');
  assert.match(ran.stdout, /touching/);
  assertReport(ran, /segment closed/);
});

onEachBackend(
  'closed memory stays closed while it can be touched, and is given back when it cannot',
  async (backend) => {
    const { code, stdout, stderr } = await adopted(backend, 'collected');
    assert.equal(code, 0, stderr);
    const [all, ...others] = stdout.trim().split('\n');
    assert.equal(all, 'true true true true', 'an open segment lives with its memory');
    assert.deepEqual(others, [...Array(4).fill('ERR_PAGEFAULT_CLOSED'), 'regions 0']);
  },
);

onEachBackend('so does memory of Workers that have ended, however they ended', async (backend) => {
  const { code, signal, stdout, stderr } = await adopted(backend, 'workers');
  assert.deepEqual({ code, signal }, { code: 0, signal: null }, stderr);
  assert.deepEqual(stdout.trim().split('\n'), [...Array(18).fill('ERR_PAGEFAULT_CLOSED'), 'regions 0']);
});

test('and of Workers that are terminated in the middle of mapping it [mprotect]', async () => {
  const program = fileURLToPath(new URL('../fixtures/into-terminated.js', import.meta.url));
  const { code, signal, stdout, stderr } = await runNode(program, ['mprotect', '8']);
  assert.deepEqual({ code, signal }, { code: 0, signal: null }, stderr);
  assert.match(stdout, /^regions [01]$/m, 'what is left is what the program has itself');
});

for (const kind of ['file', 'custom'] as const) {
  test(`memory grows while eight threads fault [signal, ${kind}]`, async (t) => {
    if (!backends.includes('signal')) return t.skip('no userfaultfd here');
    const pages = 24;
    const byteLength = pages * WASM_PAGE - 1000;
    const into = makeMemory(1, 100, true);
    const store =
      kind === 'file' ? file(patternFile(byteLength)) : custom(patternModule, { byteLength, answer: 'async' });
    const segment = await map(store, { backend: 'signal', into, resident: '512KiB' });
    const { handle } = segment;
    const stop = new Int32Array(new SharedArrayBuffer(4));
    const workers = Array.from(
      { length: 8 },
      (_, seed) =>
        new Worker(new URL('../fixtures/growing.js', import.meta.url), { workerData: { handle, seed, stop } }),
    );
    const answers = workers.map(async (worker) => (await once(worker, 'message'))[0]);
    while (into.grow(1) < pages) await sleep(10);
    Atomics.store(stop, 0, 1);
    for (const { wrong, touches } of await Promise.all(answers)) {
      assert.equal(wrong, 0);
      assert.ok(touches >= 50);
    }
    assert.ok(segment.stats().evictions > 0);
    await segment.close();
  });
}

for (const kind of ['file', 'custom async', 'custom onWrite'] satisfies WritableKind[]) {
  test(`no write of eight threads is lost while memory is evicted, flushed and grows [signal, ${kind}]`, async (t) => {
    if (!backends.includes('signal')) return t.skip('no userfaultfd here');
    const pages = 12;
    const byteLength = pages * WASM_PAGE;
    const into = makeMemory(1, 100, true);
    const { ref, contents } = writableStore(kind, byteLength);
    const segment = await map(ref, { backend: 'signal', into, writable: true, resident: '256KiB' });
    const { handle } = segment;
    const expected = new Int32Array(contents().buffer);
    const workers = Array.from(
      { length: 8 },
      (_, seed) =>
        new Worker(new URL('../fixtures/adding.js', import.meta.url), { workerData: { handle, seed, rounds: 60 } }),
    );
    const answers = workers.map(async (worker) => (await once(worker, 'message'))[0] as Map<number, number>);
    while (into.grow(1) < pages) {
      await sleep(15);
      await segment.flush();
    }
    for (const added of await Promise.all(answers)) {
      for (const [at, amount] of added) expected[at] = (expected[at] ?? 0) + amount;
    }
    assert.ok(segment.stats().writeBacks > 0);
    await segment.close();
    assert.deepEqual(new Int32Array(contents().buffer), expected);
  });
}
