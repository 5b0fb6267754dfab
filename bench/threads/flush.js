// A Worker of the figure `first-write`: flushes the segment it is sent again and again, until it is told to stop.
import { parentPort, workerData } from 'node:worker_threads';
import { open } from 'pagefault';

/** [0]: flushes begun; [1]: not 0 to stop. */
/** @type {Int32Array} */
const state = workerData;

parentPort?.on('message', async (handle) => {
  const segment = await open(handle);
  while (Atomics.load(state, 1) === 0) {
    Atomics.add(state, 0, 1);
    await segment.flush();
  }
  await segment.flush();
  await segment.close();
  parentPort?.postMessage('done');
});
