/** V8's own use of SIGSEGV: WebAssembly that reads out of its memory still traps, whatever pages are faulting meanwhile. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { map, PageError, systemPageSize } from 'pagefault';
import { custom, file, memory } from 'pagefault/stores';
import { makeControl, setMode } from '../fixtures/faulty.js';
import { patternByte } from '../fixtures/pattern.js';
import { isTrap, OUTSIDE, peek, traps } from '../fixtures/trap.js';
import { onEachBackend, patternBytes, patternFile } from '../helpers/stores.js';

const PAGE = systemPageSize();

onEachBackend(
  'WebAssembly traps before, between and after faults, and the trap reaches V8 through us',
  async (backend) => {
    assert.equal(peek(0), 0);
    assert.ok(traps());
    const segment = await map(file(patternFile(512 * PAGE)), { backend, readahead: 0, resident: 16 * PAGE });
    try {
      const bytes = segment.view(Uint8Array);
      const before = segment.stats().forwardedSignals;
      for (let i = 0; i < 1000; i++) {
        const offset = ((i * 37) % 512) * PAGE + i;
        assert.equal(bytes[offset], patternByte(offset));
        assert.ok(traps());
      }
      assert.throws(() => peek(OUTSIDE), { name: 'RuntimeError', message: /memory access out of bounds/ });
      // V8 checks bounds by a fault only where it can reserve enough addresses: on the 64-bit machines that we know.
      if (['x64', 'arm64'].includes(process.arch)) assert.ok(segment.stats().forwardedSignals >= before + 1001);
    } finally {
      await segment.close();
    }
    assert.ok(traps());
  },
);

onEachBackend('a trap inside attempt() is what attempt() throws, and the segment is not blamed', async (backend) => {
  const segment = await map(memory(patternBytes(8 * PAGE)), { backend });
  try {
    const bytes = segment.view(Uint8Array);
    assert.throws(() => segment.attempt(() => (bytes[PAGE] ?? 0) + peek(OUTSIDE)), { name: 'RuntimeError' });
    assert.equal(
      segment.attempt(() => bytes[2 * PAGE]),
      patternByte(2 * PAGE),
    );
  } finally {
    await segment.close();
  }
});

onEachBackend('a trap and a page that cannot be had in one attempt() are both told', async (backend, t) => {
  if (process.arch !== 'x64') return t.skip('attempt() of raw touches needs x64');
  const control = makeControl();
  const store = custom(new URL('../fixtures/faulty.js', import.meta.url), {
    byteLength: 8 * PAGE,
    control: control.buffer,
  });
  const segment = await map(store, { backend, readahead: 0, faultTimeoutMs: 1000 });
  try {
    setMode(control, 'permanent', PAGE);
    const bytes = segment.view(Uint8Array);
    assert.throws(
      () => segment.attempt(() => (bytes[PAGE] ?? 0) + peek(OUTSIDE)),
      (error: unknown) => {
        assert.ok(error instanceof PageError);
        let last: unknown = error;
        while (last instanceof Error && last.cause !== undefined) last = last.cause;
        assert.ok(isTrap(last), String(last));
        return true;
      },
    );
    assert.ok(traps());
    assert.equal(bytes[0], patternByte(0));
  } finally {
    await segment.close();
  }
});

onEachBackend('Workers page and trap at the same time', async (backend) => {
  const segment = await map(file(patternFile(256 * PAGE)), {
    backend,
    shared: true,
    readahead: 0,
    resident: 16 * PAGE,
  });
  try {
    const handle = segment.handle;
    const workers = [1, 2].map(
      () => new Worker(new URL('../fixtures/trapping.js', import.meta.url), { workerData: handle }),
    );
    const wrong = await Promise.all(workers.map(async (worker) => (await once(worker, 'message'))[0]));
    assert.deepEqual(wrong, [0, 0]);
    await Promise.all(workers.map((worker) => worker.terminate()));
  } finally {
    await segment.close();
  }
});
