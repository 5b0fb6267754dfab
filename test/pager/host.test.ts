/** The pager's Worker starts however the process was started, and does not outlive its stores. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readdirSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { map } from 'pagefault';
import { custom } from 'pagefault/stores';
import { openCustom } from '#dist/pager/host.js';
import { root } from '../helpers/run.js';
import { patternModule, temporaryPath } from '../helpers/stores.js';

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
  const part = { offset: 0, byteLength: undefined, pageSize: undefined };
  await assert.rejects(openCustom(custom(path), part, 150, undefined), {
    name: 'StoreError',
    code: 'ERR_PAGEFAULT_TIMEOUT',
    message: 'opening the store took longer than 150 ms',
  });
  const store = await openCustom(custom(patternModule, { byteLength: 8192 }), part, 30_000, undefined);
  assert.equal(store.byteLength, 8192);
  await store.close();
});

test('the Worker ends a moment after its last store is closed, and comes back when it is needed', async () => {
  const threads = (): number => readdirSync('/proc/self/task').length;
  const ref = custom(patternModule, { byteLength: 8192 });
  const first = await map(ref);
  const second = await map(ref);
  const busy = threads();
  await first.close();
  await sleep(900);
  assert.ok(threads() >= busy, 'a store is open still');
  await second.close();
  for (let i = 0; threads() >= busy && i < 40; i++) await sleep(100);
  assert.ok(threads() < busy, `${threads()} of ${busy} threads are left`);
  const third = await map(ref);
  assert.equal(third.view(Uint8Array)[1], 7);
  await third.close();
});
