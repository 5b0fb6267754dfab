// A second thread that computes: state[0] is 0 to rest, 1 to run, 2 to end.
import { workerData } from 'node:worker_threads';

/** @type {Int32Array} */
const state = workerData;
let value = 1;
for (;;) {
  Atomics.wait(state, 0, 0);
  while (Atomics.load(state, 0) === 1)
    for (let i = 0; i < 1000; i++) value = (Math.imul(value, 1664525) + 1013904223) | 0;
  if (Atomics.load(state, 0) === 2) break;
}
process.exitCode = value === 0 ? 1 : 0;
