/** Stores that do not take what was written: nothing is lost, and everything can be done again. On every backend. */

import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { map, PageError, type Segment } from 'pagefault';
import { custom, file, memory, zero } from 'pagefault/stores';
import { patternByte } from '../fixtures/pattern.js';
import { nobody, runConfined } from '../helpers/confined.js';
import { run, runNode } from '../helpers/run.js';
import { patternBytes, patternFile, patternModule, temporaryPath } from '../helpers/stores.js';
import { keepingModule, onEachWritableBackend, PAGE, whileOpen, writable, writableStore } from '../helpers/writable.js';

const writer = fileURLToPath(new URL('../fixtures/writing.js', import.meta.url));
const SOON = { faultTimeoutMs: 300 };
/** Longer, for a Worker that does not get its CPU for a while: else the write is late, whatever its store says. */
const LATER = { faultTimeoutMs: 600 };

const refusals = [
  ['write', 'throw', 'ERR_PAGEFAULT_STORE_WRITE', /write threw at \d+/],
  ['write', 'reject', 'ERR_PAGEFAULT_STORE_WRITE', /write rejected at \d+/],
  ['write', 'permanent', 'ERR_PAGEFAULT_STORE_WRITE', /write refused at \d+/],
  ['write', 'never', 'ERR_PAGEFAULT_TIMEOUT', /did not (write|answer) within/],
  ['sync', 'throw', 'ERR_PAGEFAULT_STORE_SYNC', /sync threw/],
  ['sync', 'permanent', 'ERR_PAGEFAULT_STORE_SYNC', /sync refused/],
  ['sync', 'never', 'ERR_PAGEFAULT_TIMEOUT', /did not (sync|answer) within/],
] as const;

/**
 * What a flush fails with, or undefined. Where the store's Worker was held up so long that its answer would have come late, it is asked
 * again.
 */
async function refusalOf(segment: Segment, code: string): Promise<PageError | undefined> {
  for (let tries = 0; ; tries++) {
    const error = await segment.flush().then(
      () => undefined,
      (reason: unknown) => reason,
    );
    if (error === undefined) return undefined;
    assert.ok(error instanceof PageError, String(error));
    if (error.code === code) return error;
    assert.ok(error.code === 'ERR_PAGEFAULT_TIMEOUT' && tries < 10, String(error));
  }
}

for (const [call, way, code, message] of refusals) {
  onEachWritableBackend(`a store whose ${call} does "${way}" fails the flush, and loses nothing`, async (backend) => {
    for (const kind of ['custom sync', 'custom onWrite'] as const) {
      await whileOpen(
        await writable(backend, kind, 16 * PAGE, SOON),
        async ({ segment, bytes, model, contents, control }) => {
          for (const page of [2, 3, 9]) {
            bytes[page * PAGE + 4] = 0xbb;
            model[page * PAGE + 4] = 0xbb;
          }
          const modified = [
            { offset: 2 * PAGE, byteLength: 2 * PAGE },
            { offset: 9 * PAGE, byteLength: PAGE },
          ];
          control.set(call, way, call === 'write' ? 9 * PAGE : 0);
          const error = (await refusalOf(segment, code)) ?? assert.fail('it took it');
          assert.match(error.message, message);
          assert.equal(error.segment, 'written');
          if (call === 'write') assert.equal(error.offset, 9 * PAGE);
          if (code !== 'ERR_PAGEFAULT_TIMEOUT') {
            assert.equal((error.cause as Error).name, 'StoreFailure');
            assert.equal((error.cause as { code?: string }).code, 'E_KEEPING');
          }
          assert.deepEqual(segment.dirty(), modified, 'everything is still modified');
          assert.deepEqual(segment.read(0, 16 * PAGE), model);
          await assert.rejects(segment.close(), PageError, 'close() does not give it up either');
          bytes[12 * PAGE] = 0xcc;
          model[12 * PAGE] = 0xcc;
          control.set(call, 'well');
          assert.equal(await refusalOf(segment, 'none'), undefined);
          assert.deepEqual(contents(), model);
          assert.deepEqual(segment.dirty(), []);
          assert.ok(segment.stats().writeFailures > 0 || call === 'sync');
        },
      );
    }
  });
}

onEachWritableBackend('a store that fails for a while is asked again until it takes it', async (backend) => {
  const options = { faultTimeoutMs: 10_000 };
  await whileOpen(
    await writable(backend, 'custom sync', 4 * PAGE, options),
    async ({ segment, bytes, model, contents, control }) => {
      bytes[0] = 0x31;
      model[0] = 0x31;
      control.set('write', 'throw');
      const mend = setInterval(() => {
        if (control.get('write', 'calls') > 2) control.set('write', 'well');
      }, 5);
      await segment.flush();
      clearInterval(mend);
      assert.deepEqual(contents(), model);
      assert.ok(control.get('write', 'calls') > 2);
    },
  );
});

onEachWritableBackend('a sync that failed is not asked again before everything is written again', async (backend) => {
  const options = { faultTimeoutMs: 10_000, resident: 8 * PAGE };
  await whileOpen(
    await writable(backend, 'custom sync', 64 * PAGE, options),
    async ({ segment, bytes, model, contents, control }) => {
      for (let page = 0; page < 64; page++) {
        bytes[page * PAGE] = 0x31;
        model[page * PAGE] = 0x31;
      }
      const evicted = segment.stats().writeBacks;
      assert.ok(evicted > 40, `${evicted} have left memory`);
      control.set('sync', 'reject');
      await assert.rejects(segment.flush(), { code: 'ERR_PAGEFAULT_STORE_SYNC' });
      assert.equal(control.get('sync', 'calls'), 1);
      assert.deepEqual(segment.dirty(), [{ offset: 0, byteLength: 64 * PAGE }], 'also what had left memory');
      control.set('sync', 'well');
      await segment.flush(0, 32 * PAGE);
      assert.ok(
        segment.dirty().some(({ offset }) => offset >= 32 * PAGE),
        'what was not in the range still is',
      );
      const before = control.get('write', 'bytes');
      await segment.flush();
      assert.ok(control.get('write', 'bytes') - before >= 16 * PAGE, 'the store got it once more');
      assert.deepEqual(contents(), model);
      segment.discard();
      assert.deepEqual(segment.read(0, 64 * PAGE), model);
    },
  );
});

onEachWritableBackend('a Worker that is gone leaves everything modified', async (backend) => {
  const { segment, bytes, control } = await writable(backend, 'custom sync', 8 * PAGE);
  bytes[3 * PAGE] = 1;
  control.set('write', 'exit');
  const gone = { name: 'PageError', code: 'ERR_PAGEFAULT_STORE_GONE' };
  const start = performance.now();
  await assert.rejects(segment.flush(), gone);
  assert.ok(performance.now() - start < 5000, 'long before the deadline');
  assert.deepEqual(segment.dirty(), [{ offset: 3 * PAGE, byteLength: PAGE }]);
  assert.equal(bytes[3 * PAGE], 1);
  await assert.rejects(segment.flush(), gone);
  await assert.rejects(segment.close(), gone);
  await segment.close({ discard: true });
});

onEachWritableBackend(
  'a flush that is aborted rejects with the reason of the signal and loses nothing',
  async (backend) => {
    const options = { faultTimeoutMs: 60_000 };
    await whileOpen(
      await writable(backend, 'custom sync', 8 * PAGE, options),
      async ({ segment, bytes, model, contents, control }) => {
        bytes.fill(3);
        model.fill(3);
        const reason = new Error('later');
        await assert.rejects(segment.flush(0, 8 * PAGE, { signal: AbortSignal.abort(reason) }), reason);
        assert.equal(control.get('write', 'calls'), 0);
        control.set('write', 'never');
        const abort = new AbortController();
        const flushing = segment.flush(0, 8 * PAGE, { signal: abort.signal });
        setTimeout(() => abort.abort(reason), 40);
        const start = performance.now();
        await assert.rejects(flushing, reason);
        assert.ok(performance.now() - start < 20_000);
        assert.deepEqual(segment.dirty(), [{ offset: 0, byteLength: 8 * PAGE }]);
        control.set('write', 'well');
        await segment.flush();
        assert.ok(performance.now() - start < 30_000, 'the next one does not wait for the deadline of the first');
        assert.deepEqual(contents(), model);
      },
    );
  },
);

onEachWritableBackend('close({ discard: true }) ends a close() that flushes', async (backend) => {
  const { segment, bytes, contents, control } = await writable(backend, 'custom sync', 8 * PAGE, {
    faultTimeoutMs: 60_000,
  });
  bytes[0] = 0xfe;
  control.set('write', 'never');
  const closing = segment.close();
  await sleep(30);
  assert.equal(segment.read(0, 1)[0], 0xfe, 'usable while it flushes');
  const start = performance.now();
  await segment.close({ discard: true });
  await closing;
  assert.ok(performance.now() - start < 20_000);
  assert.equal(contents()[0], patternByte(0));
  assert.throws(() => segment.read(0, 1), { code: 'ERR_PAGEFAULT_CLOSED' });
});

onEachWritableBackend('a flush of a segment that is closed rejects with a ClosedError', async (backend) => {
  const { segment, bytes, control } = await writable(backend, 'custom sync', 8 * PAGE, { faultTimeoutMs: 60_000 });
  bytes[0] = 0xfe;
  control.set('write', 'never');
  const flushing = assert.rejects(segment.flush(), { code: 'ERR_PAGEFAULT_CLOSED' });
  const waiting = assert.rejects(segment.flush(), { code: 'ERR_PAGEFAULT_CLOSED' });
  await sleep(30);
  await segment.close({ discard: true });
  await flushing;
  await waiting;
});

for (const way of ['throw', 'permanent', 'reject', 'never'] as const) {
  onEachWritableBackend(
    `onWrite that does "${way}" refuses the write, and the page stays as it is`,
    async (backend) => {
      await whileOpen(
        await writable(backend, 'custom onWrite', 8 * PAGE, LATER),
        async ({ segment, bytes, model, control }) => {
          assert.equal(bytes[PAGE], model[PAGE]);
          control.set('onWrite', way);
          const code = way === 'never' ? 'ERR_PAGEFAULT_TIMEOUT' : 'ERR_PAGEFAULT_STORE';
          const expected = (error: unknown): boolean => {
            assert.ok(error instanceof PageError, String(error));
            assert.equal(error.code, code);
            assert.equal(error.page, (error.offset ?? 0) / PAGE);
            if (way !== 'never') assert.match((error.cause as Error).message, /^onWrite \w+ at \d+$/);
            return true;
          };
          assert.throws(() => segment.write(PAGE, new Uint8Array(8)), expected);
          assert.throws(
            () => segment.write(3 * PAGE, new Uint8Array(8)),
            expected,
            'of a page that was not read before',
          );
          assert.throws(() => {
            segment.attempt(() => {
              bytes[PAGE + 1] = 1;
            });
          }, expected);
          assert.deepEqual(segment.dirty(), []);
          assert.deepEqual(segment.read(0, 8 * PAGE), model);
          control.set('onWrite', 'well');
          bytes[PAGE] = 5;
          assert.deepEqual(segment.dirty(), [{ offset: PAGE, byteLength: PAGE }]);
        },
      );
    },
  );

  onEachWritableBackend(
    `a raw write that onWrite refuses with "${way}" ends the process with a report`,
    async (backend) => {
      const { signal, code, stderr } = await runNode(writer, [backend, 'refused', way], { timeoutMs: 15_000 });
      assert.doesNotMatch(stderr, /^written/m);
      assert.ok(
        signal === 'SIGBUS' || signal === 'SIGSEGV' || signal === 'SIGABRT' || (code ?? 0) >= 128,
        `${signal} ${code}: ${stderr}`,
      );
      assert.match(stderr, /the one/);
      assert.match(stderr, way === 'never' ? /onWrite|answer/ : /onWrite \w+ at/);
    },
  );
}

onEachWritableBackend('a store that touches its own segment while it writes is told so', async (backend) => {
  const ran = await runNode(writer, [backend, 'entangled'], { timeoutMs: 20_000 });
  assert.equal(ran.code, 0, ran.stderr);
  assert.match(ran.stderr, /write: ERR_PAGEFAULT_DEADLOCK/);
  assert.match(ran.stderr, /onWrite: ERR_PAGEFAULT_DEADLOCK/);
});

onEachWritableBackend(
  'what is left unflushed is told: by a line at exit, by a warning where it is collected',
  async (backend) => {
    const left = await runNode(writer, [backend, 'left'], { timeoutMs: 15_000 });
    assert.equal(left.code, 0, left.stderr);
    assert.match(
      left.stderr,
      new RegExp(
        `^pagefault: segment "the one" was not closed: ${2 * PAGE} bytes .* are lost \\(pages 0 and 5\\)$`,
        'm',
      ),
    );
    assert.equal(left.stderr.match(/the one/g)?.length, 1, left.stderr);
    const exited = await runNode(writer, [backend, 'process.exit'], { timeoutMs: 15_000 });
    assert.equal(exited.code, 3, exited.stderr);
    assert.match(exited.stderr, /"the one" was not closed/);
    const worker = await runNode(writer, [backend, 'left by a Worker'], { timeoutMs: 15_000 });
    assert.equal(worker.code, 0, worker.stderr);
    assert.match(worker.stderr, /"the one" was not closed/);
    const flushed = await runNode(writer, [backend, 'flushed and left'], { timeoutMs: 15_000 });
    assert.equal(flushed.stderr, '');
    const collected = await run(process.execPath, ['--expose-gc', writer, backend, 'collected'], { timeoutMs: 30_000 });
    assert.equal(collected.code, 0, collected.stderr);
    assert.match(collected.stderr, /\[ERR_PAGEFAULT_UNFLUSHED\] PagefaultWarning: segment "the one" was collected/);
    assert.match(collected.stderr, new RegExp(`${PAGE} bytes .* are lost \\(page 0\\)$`, 'm'));
  },
);

/** Pages that are written, and what the line at exit calls them. */
const leftPages = [
  ['7', 'page 7'],
  ['3,1,2', 'pages 1-3'],
  ['9,0,1,2,3', 'pages 0-3 and 9'],
  ['0,2,4,6', 'pages 0, 2, 4 and 6'],
  ['0,2,4,6,8', 'pages 0, 2, 4, 6 and 1 more'],
  ['63,20,21,22,0,1,2,3,7,11,13,30,40,41,42,43', 'pages 0-3, 7, 11, 13 and 9 more'],
] as const;

onEachWritableBackend('the line at exit names the first pages that are lost, and counts the rest', async (backend) => {
  for (const [pages, named] of leftPages) {
    const { code, stderr } = await runNode(writer, [backend, 'left', pages], { timeoutMs: 30_000 });
    const bytes = pages.split(',').length * PAGE;
    assert.equal(code, 0, stderr);
    assert.equal(
      stderr,
      `pagefault: segment "the one" was not closed: ${bytes} bytes that were written to it since the last flush are lost (${named})\n`,
    );
  }
});

test('stores that cannot write are refused in a sentence', async () => {
  const readOnly = { name: 'StoreError', code: 'ERR_PAGEFAULT_STORE_READ_ONLY' };
  await assert.rejects(map(zero(4096), { writable: true }), { ...readOnly, message: /^zero\(4096\) keeps nothing/ });
  await assert.rejects(map(memory(new Uint8Array(8)), { writable: true }), {
    name: 'TypeError',
    message: /needs a SharedArrayBuffer/,
  });
  await assert.rejects(map(custom(patternModule, { byteLength: 4096 }), { writable: true }), {
    ...readOnly,
    message: /pattern\.js has no function write/,
  });
  await assert.rejects(map(file(process.execPath), { writable: true }), {
    ...readOnly,
    message: /cannot be mapped with writable: true: it is a program that is running \(ETXTBSY\)/,
  });
  await assert.rejects(map(file('/nowhere/at/all'), { writable: true }), { code: 'ERR_PAGEFAULT_STORE_OPEN' });
  await assert.rejects(map(file(temporaryPath(), { create: 4096 })), {
    name: 'TypeError',
    message: /needs writable: true/,
  });
});

test('a file that may not be written is refused to whom it is forbidden', async (t) => {
  const user = nobody();
  if ('reason' in user) return t.skip(user.reason);
  const path = patternFile(4096);
  chmodSync(path, 0o444);
  const { stderr, code } = await runConfined(user, writer, ['auto', 'forbidden', path]);
  assert.equal(code, 0, stderr);
  assert.match(stderr, /ERR_PAGEFAULT_STORE_(READ_ONLY: .*no permission to write it|OPEN: .*no permission to read it)/);
});

test('a store whose write, onWrite or sync is no function is refused', async () => {
  for (const name of ['write', 'onWrite', 'sync']) {
    const path = `${temporaryPath()}.mjs`;
    writeFileSync(path, `export default () => ({ byteLength: 4096, read: () => 0, write() {}, ${name}: 1 });`);
    await assert.rejects(map(custom(path), { writable: true }), {
      name: 'StoreError',
      code: 'ERR_PAGEFAULT_STORE_INVALID',
      message: new RegExp(`^${name} of the store of .* must be a function, not 1$`),
    });
  }
});

test('a store that keeps is not asked to write where the segment is read-only', async () => {
  const { ref, control } = writableStore('custom onWrite', 4 * PAGE);
  const segment = await map(ref);
  assert.equal(segment.view(Uint8Array)[0], patternBytes(1)[0]);
  await segment.close();
  for (const call of ['write', 'onWrite', 'sync'] as const) assert.equal(control.get(call, 'calls'), 0);
  assert.ok(keepingModule.href.endsWith('keeping.js'));
});

for (const [how, body, why] of [
  [
    'an uncaught exception',
    "setTimeout(() => { throw new Error('boom in the middle'); }, 5); return new Promise(() => {});",
    /boom in the middle/,
  ],
  ['process.exit', 'setTimeout(() => process.exit(9), 5); return new Promise(() => {});', /exited with code 9/],
] as const) {
  onEachWritableBackend(
    `a Worker that ends by ${how} in the middle of a flush leaves everything modified`,
    async (backend) => {
      const path = `${temporaryPath()}.mjs`;
      writeFileSync(
        path,
        `export default () => ({ byteLength: ${64 * PAGE}, read: () => null, write(offset) { if (offset > 0) { ${body} } } });`,
      );
      const segment = await map(custom(path), { backend, writable: true, readahead: 0, name: 'left alone' });
      const bytes = segment.view(Uint8Array);
      for (let page = 0; page < 64; page += 2) bytes[page * PAGE] = 1;
      const before = segment.dirty();
      assert.equal(before.length, 32);
      const start = performance.now();
      await assert.rejects(segment.flush(), { name: 'PageError', code: 'ERR_PAGEFAULT_STORE_GONE', message: why });
      assert.ok(performance.now() - start < 10_000, 'long before the deadline');
      assert.deepEqual(segment.dirty(), before);
      assert.equal(segment.read(2 * PAGE, 1)[0], 1);
      await assert.rejects(segment.close(), { code: 'ERR_PAGEFAULT_STORE_GONE' });
      await segment.close({ discard: true });
      const next = await writable(backend, 'custom sync', 4 * PAGE); // another Worker
      next.bytes[0] = 9;
      await next.segment.close();
      assert.equal(next.contents()[0], 9);
    },
  );
}

onEachWritableBackend(
  'close({ discard: true }) under load ends every flush, load and pin that is under way',
  async (backend) => {
    for (let round = 0; round < 5; round++) {
      const { segment, bytes, control } = await writable(backend, 'custom async', 256 * PAGE, { resident: 64 * PAGE });
      for (let page = 0; page < 256; page++) bytes[page * PAGE] = page;
      if (round % 2 === 1) control.set('write', 'never');
      const under = [
        ...Array.from({ length: 6 }, (_, i) => segment.flush(i * 40 * PAGE, 40 * PAGE)),
        ...Array.from({ length: 6 }, (_, i) => segment.load(i * 40 * PAGE, 40 * PAGE)),
        segment.pin(0, 4 * PAGE),
      ];
      const ended = Promise.allSettled(under);
      await sleep(round * 3);
      const start = performance.now();
      await segment.close({ discard: true });
      for (const end of await ended) {
        if (end.status === 'rejected')
          assert.equal((end.reason as { code?: string }).code, 'ERR_PAGEFAULT_CLOSED', String(end.reason));
      }
      assert.ok(performance.now() - start < 10_000);
    }
  },
);
