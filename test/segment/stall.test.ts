/** Pages that are late, and threads that wait for each other: told of and named before any deadline. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { type Backend, map, type StallEvent, systemPageSize } from 'pagefault';
import { custom } from 'pagefault/stores';
import { patternByte } from '../fixtures/pattern.js';
import type { TouchingData } from '../fixtures/touching.js';
import type { WaitingOptions } from '../fixtures/waiting-store.js';
import { runNode } from '../helpers/run.js';
import { backends, onEachBackend } from '../helpers/stores.js';

process.env['PAGEFAULT_STALL_REPORTS'] = '0';

const PAGE = systemPageSize();
const KILL_MS = 90_000;
const stuck = fileURLToPath(new URL('../fixtures/stuck.js', import.meta.url));
const touching = new URL('../fixtures/touching.js', import.meta.url);
const waiting = new URL('../fixtures/waiting-store.js', import.meta.url);
const loud = { ...process.env, PAGEFAULT_STALL_REPORTS: '1' };

onEachBackend(
  'a page that is late is told of once on each thread that runs, and comes all the same',
  async (backend, t) => {
    const flag = new SharedArrayBuffer(4);
    const options: WaitingOptions = { byteLength: 16 * PAGE, how: 'flag', flag };
    const segment = await map(custom(waiting, options), { backend, shared: true, readahead: 0, stallAfterMs: 100 });
    const told: StallEvent[] = [];
    segment.addEventListener('stall', (event) => told.push(event as StallEvent));
    const { handle } = segment;
    const listener = new Worker(touching, { workerData: { handle } satisfies TouchingData });
    t.after(() => listener.terminate());
    await once(listener, 'message');
    const first = once(segment, 'stall');
    const heard = once(listener, 'message');
    const toucher = new Worker(touching, { workerData: { handle, offset: 5 * PAGE + 1 } satisfies TouchingData });
    const touched = once(toucher, 'message');
    await first;
    assert.deepEqual(await heard, [5]);
    Atomics.store(new Int32Array(flag), 0, 1);
    assert.deepEqual(await touched, [patternByte(5 * PAGE + 1)]);
    const [{ page, offset, waitedMs, threadId, store, doing } = assert.fail()] = told;
    assert.deepEqual({ page, offset }, { page: 5, offset: 5 * PAGE });
    assert.ok(waitedMs >= 100 && threadId > 0 && threadId !== process.pid);
    assert.match(store, /^custom\(.*waiting-store/);
    assert.match(doing, /its Worker \(thread \d+\) has \d taken, .*and \d not; it (never|last) answered/);
    assert.equal(told.length, 1);
    assert.equal(segment.stats().stalls, 1);
    assert.equal(segment.stats().failures, 0);
    listener.postMessage('end');
    await once(listener, 'exit');
    await segment.close();
  },
);

/** What the program says on stderr of the segment 'late'; then it is killed. */
async function lineOf(how: string, backend: Backend, late: number): Promise<string> {
  const child = spawn(process.execPath, [stuck, how, backend, `${late}`], {
    env: loud,
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), KILL_MS);
  let text = '';
  for await (const chunk of child.stderr.setEncoding('utf8')) {
    text += chunk;
    const line = /^.*segment "late".*\n/m.exec(text);
    if (line !== null) {
      clearTimeout(timer);
      child.kill('SIGKILL');
      return line[0];
    }
  }
  clearTimeout(timer);
  return assert.fail(`${how} ended without a word: ${text}`);
}

const LATE =
  /^pagefault: thread \d+ has waited \d+\.\d s for page \d+ \(offset \d+\) of segment "late", store custom\(.*\): /;
const TAKEN = /the store has had the order \(a read\) for /;
const MAIN = /the main thread is stopped at a page: a store must not wait for it/;

const stuckIn: Record<string, readonly RegExp[]> = {
  atomics: [LATE, TAKEN, /sleeps until another thread wakes it \(Atomics\.wait, a lock\)/, MAIN],
  message: [LATE, TAKEN, /its event loop is idle: what the store awaits does not come/, MAIN],
  stdout: [LATE, TAKEN, /its event loop is idle/, MAIN],
  behind: [
    LATE,
    /has not taken the order \(a read\) for .* its event loop is busy/,
    /has 1 taken, the oldest for .*, and 1 not/,
  ],
  pool: [TAKEN, /libuv's pool/, /a store that needs .* \(fs, dns, zlib, crypto\) cannot answer/],
};

/** On a machine that is busy otherwise the Worker may not have come to its end when it is looked at: then it is looked at later. */
async function saysWhy(how: string, expected: readonly RegExp[], backend: Backend): Promise<void> {
  for (const late of [150, 2000]) {
    const line = await lineOf(how, backend, late);
    if (expected.every((part) => part.test(line))) return;
  }
  const line = await lineOf(how, backend, 10_000);
  for (const part of expected) assert.match(line, part);
}

for (const backend of backends) {
  const name = `a program that is stuck says why, though perhaps no thread of it runs [${backend}]`;
  test(name, { concurrency: true }, async (t) => {
    const all = Object.entries(stuckIn).map(([how, expected]) => t.test(how, () => saysWhy(how, expected, backend)));
    await Promise.all(all);
  });
}

onEachBackend('with PAGEFAULT_STALL_REPORTS=0 stderr hears nothing, and the event is told', async (backend) => {
  const ran = await runNode(stuck, ['quiet', backend], { timeoutMs: KILL_MS });
  assert.deepEqual({ code: ran.code, stdout: ran.stdout, stderr: ran.stderr }, { code: 0, stdout: '3\n', stderr: '' });
});

onEachBackend(
  'stores that wait for each other are an error that says so, long before the deadline',
  async (backend) => {
    const ran = await runNode(stuck, ['chain', backend], { timeoutMs: 55_000 });
    assert.equal(ran.code, 0, `${ran.signal} ${ran.stderr}`);
    assert.match(ran.stdout, /^ERR_PAGEFAULT_DEADLOCK /);
    assert.match(
      ran.stdout,
      /stores wait for each other: one touched "[AB]", whose store touched "[AB]", whose store is the first one/,
    );
  },
);
