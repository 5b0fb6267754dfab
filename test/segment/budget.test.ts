/** Budgets and the threads that make them. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import { Worker } from 'node:worker_threads';
import { native } from '#dist/native/load.js';
import { until } from '../helpers/descriptors.js';

const program = new URL('../fixtures/budgeted.js', import.meta.url);

test('budgets go with the thread that made them, though nobody closed them', async () => {
  const before = native().census();
  for (let i = 0; i < 3; i++) {
    const worker = new Worker(program);
    const [code] = await once(worker, 'exit'); // a message may be lost with the thread
    assert.equal(code, 7);
  }
  await until(() => native().census().regions <= before.regions);
  assert.equal(native().census().budgets, before.budgets);
});
