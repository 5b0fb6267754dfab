/** The pager's Worker starts however the process was started, and does not outlive its stores. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import { map } from 'pagefault';
import { custom } from 'pagefault/stores';
import { openCustom } from '#dist/pager/host.js';
import { root } from '../helpers/run.js';
import { patternModule, temporaryPath } from '../helpers/stores.js';

/** Those that this process has started. */
const workers: { ended: boolean }[] = [];
process.on('worker', (worker: Worker) => {
  const started = { ended: false };
  workers.push(started);
  worker.once('exit', () => {
    started.ended = true;
  });
});

const program = `
  const { map } = await import('pagefault');
  const { custom } = await import('pagefault/stores');
  const segment = await map(custom(${JSON.stringify(patternModule.href)}, { byteLength: 1e6, seed: 1 }));
  console.log('byte', segment.view(Uint8Array)[0]);
  await segment.close();
`;

test('a store of its own works in a program given on the command line, whatever the switches', () => {
  const preload = `${temporaryPath()}.mjs`;
  writeFileSync(preload, 'globalThis.preloaded = true;');
  const ways = [
    ['--input-type=module', '--eval', program],
    ['--import', preload, '--max-old-space-size=256', '--input-type=module', '-e', program],
    ['--stack-trace-limit=50', '--eval', `(async () => {${program}})()`],
    ['--expose-gc', '--input-type=module', `--import=${preload}`, '-e', program],
  ];
  for (const args of ways) {
    const { stdout, stderr, status } = spawnSync(process.execPath, args, {
      cwd: root,
      encoding: 'utf8',
      timeout: 20_000,
    });
    assert.equal(stdout, 'byte 1\n', stderr);
    assert.equal(status, 0);
  }
});

test('a store that takes too long to open is given up, and the next one gets another Worker', async () => {
  const path = `${temporaryPath()}.mjs`;
  writeFileSync(path, 'for (;;);');
  const part = { offset: 0, byteLength: undefined, pageSize: undefined, writable: false };
  await assert.rejects(openCustom(custom(path), part, 150, undefined), {
    name: 'StoreError',
    code: 'ERR_PAGEFAULT_TIMEOUT',
    message: 'opening the store took longer than 150 ms',
  });
  const store = await openCustom(custom(patternModule, { byteLength: 8192 }), part, 30_000, undefined);
  assert.equal(store.byteLength, 8192);
  await store.close();
});

test('a signal that was aborted before ends the opening, too', async () => {
  const path = `${temporaryPath()}.mjs`;
  writeFileSync(path, 'await new Promise(() => {});');
  const part = { offset: 0, byteLength: undefined, pageSize: undefined, writable: false };
  const aborted = AbortSignal.abort(new Error('changed my mind'));
  await assert.rejects(openCustom(custom(path), part, 20_000, aborted), { message: 'changed my mind' });
});

test('options that cannot be cloned refuse the opening, and keep no process alive', () => {
  const body = `
    const { map } = await import('pagefault');
    await map({ kind: 'custom', moduleUrl: ${JSON.stringify(patternModule.href)}, options: () => {} })
      .catch((error) => console.log(error.name));
  `;
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--input-type=module', '-e', body], {
    cwd: root,
    encoding: 'utf8',
    timeout: 20_000, // opening a store may take 30 s
  });
  assert.equal(stdout, 'DataCloneError\n', stderr);
  assert.equal(status, 0);
});

test('a store whose module catches what nobody else does goes on', async () => {
  const path = `${temporaryPath()}.mjs`;
  writeFileSync(
    path,
    `let heard;
    const caught = new Promise((resolve) => { heard = resolve; });
    process.on('uncaughtException', () => heard());
    export default () => ({
      byteLength: 8192,
      async read(offset, into) {
        if (offset === 0) setImmediate(() => { throw new Error('nobody catches this'); });
        else await caught;
        return into.fill(offset / 4096 + 1).length;
      },
    });`,
  );
  const segment = await map(custom(path), { pageSize: 4096 });
  try {
    await segment.load(0, 4096);
    await segment.load(4096, 4096);
    assert.equal(segment.view(Uint8Array)[4096], 2);
  } finally {
    await segment.close();
  }
});

test('the Worker ends a moment after its last store is closed, and comes back when it is needed', async () => {
  const ref = custom(patternModule, { byteLength: 8192 });
  const first = await map(ref);
  const second = await map(ref);
  const used = workers.at(-1);
  await first.close();
  await sleep(900);
  assert.equal(used?.ended, false, 'a store is open still');
  await second.close();
  for (let i = 0; !used.ended && i < 200; i++) await sleep(100);
  assert.ok(used.ended);
  const third = await map(ref);
  assert.notEqual(workers.at(-1), used);
  assert.equal(third.view(Uint8Array)[1], 7);
  await third.close();
});
