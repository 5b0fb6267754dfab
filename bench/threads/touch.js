// A Worker of the figure `two-workers`: opens the segment it is sent, waits for the start, touches its pages, says when it began and ended.
import { parentPort, workerData } from 'node:worker_threads';
import { open } from 'pagefault';
import { floor } from '../floor/index.js';
import { PAGE, touch } from '../lib/touch.js';

/** @type {{ cpu: number, start: Int32Array }} */
const { cpu, start } = workerData;
floor.pinThread(cpu);

parentPort?.on('message', async ({ handle, order, turn }) => {
  const segment = await open(handle);
  const view = segment.view(Uint8Array);
  parentPort?.postMessage('ready');
  Atomics.wait(start, 0, turn - 1);
  const begin = process.hrtime.bigint();
  const sum = touch(view, order, PAGE);
  const end = process.hrtime.bigint();
  await segment.close();
  parentPort?.postMessage({ begin: Number(begin), end: Number(end), sum });
});
