/** A thread that reads its share of the pages: the whole of a Worker of `--threads`. */
import { parentPort, workerData } from 'node:worker_threads';
import { Mapping } from '../../kernel/mapping.js';
import { Explainer } from './explain.js';
import type { ThreadOrders } from './orders.js';
import { readPages } from './reader.js';
import { Speaker } from './speaker.js';

const orders = workerData as ThreadOrders;
const { task, thread, threads, address, byteLength } = orders;
const stop = new Int32Array(orders.stop);
// The process is not a Worker's to end: when nobody listens any more, all threads stop reading, and it ends by itself.
const speaker = new Speaker(orders.voice, { thread, unheard: () => Atomics.store(stop, 0, 1) });
speaker.say({ type: 'thread-entering' });
const wrong = readPages({
  ...task,
  bytes: new Uint8Array(Mapping.bufferAt({ address, byteLength })),
  address,
  first: thread,
  step: threads,
  speaker,
  explainer: new Explainer(orders.explain ? speaker : undefined),
  stop,
});
if (wrong !== undefined) parentPort?.postMessage(wrong);
speaker.say({ type: 'thread-exiting' });
