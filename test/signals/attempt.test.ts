/** attempt(): every way of reading memory goes on over a page that cannot be had, in the thread that asked and in no other. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { map, systemPageSize } from 'pagefault';
import { custom } from 'pagefault/stores';
import { makeControl, setMode } from '../fixtures/faulty.js';
import type { OnlookerData } from '../fixtures/onlooker.js';
import { patternByte } from '../fixtures/pattern.js';
import { runNode } from '../helpers/run.js';
import { backends } from '../helpers/stores.js';

const PAGE = systemPageSize();

// Elsewhere one instruction cannot be stepped over, so that a raw touch of such a page ends the process there.
const skip = process.arch === 'x64' ? false : 'attempt() of raw touches needs x64';

for (const backend of backends) {
  for (const flags of [[], ['--no-opt'], ['--jitless']]) {
    const how = flags.length === 0 ? '' : ` with ${flags.join(' ')}`;
    test(`every way of reading throws a PageError and reads zeroes${how} [${backend}]`, { skip }, async () => {
      const script = fileURLToPath(new URL('../fixtures/attempting.js', import.meta.url));
      const { code, signal, stdout, stderr } = await runNode(
        flags[0] ?? script,
        flags.length === 0 ? [backend] : [script, backend],
        {
          timeoutMs: 60_000,
        },
      );
      assert.equal(code, 0, `${signal} ${stderr}`);
      assert.deepEqual(JSON.parse(stdout), []);
    });
  }

  test(`no other thread sees the zeroes that an attempt reads [${backend}]`, { skip }, async () => {
    const control = makeControl();
    const store = custom(new URL('../fixtures/faulty.js', import.meta.url), {
      byteLength: 8 * PAGE,
      control: control.buffer,
    });
    const segment = await map(store, { backend, shared: true, readahead: 0, faultTimeoutMs: 1000 });
    const offset = 3 * PAGE + 5;
    assert.notEqual(patternByte(offset), 0);
    const stop = new Int32Array(new SharedArrayBuffer(4));
    const workerData: OnlookerData = { handle: segment.handle, offset, stop: stop.buffer };
    const url = new URL('../fixtures/onlooker.js', import.meta.url);
    const workers = [1, 2, 3].map(() => new Worker(url, { workerData }));
    const ends = workers.map((worker) => once(worker, 'message'));
    try {
      for (let round = 0; round < 40; round++) {
        setMode(control, 'permanent', PAGE);
        segment.invalidate(3 * PAGE, PAGE);
        await sleep(15);
        setMode(control, 'well');
        await segment.load(3 * PAGE, PAGE);
        assert.equal(segment.view(Uint8Array)[offset], patternByte(offset));
        await sleep(10);
      }
    } finally {
      Atomics.store(stop, 0, 1);
    }
    const seen = (await Promise.all(ends)).map(([message]) => message as Record<string, number>);
    for (const { right = 0, refused = 0, wrong } of seen) {
      assert.equal(wrong, 0, 'a read that did not throw saw what the store has');
      assert.ok(right > 10 && refused > 10, `${right} ${refused}`);
    }
    await segment.close();
  });
}
