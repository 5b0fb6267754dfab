/** Several threads that read one memory at once: page i is the matter of thread i mod N. Main thread of the process whose memory it is. */
import { Worker } from 'node:worker_threads';
import type { Range } from '../../kernel/range.js';
import type { ThreadOrders } from './orders.js';

export interface Readers {
  /** Resolves when all have ended: with a sentence about a page that was wrong, if one was. Rejects when one could not read. */
  readonly done: Promise<string | undefined>;
  /** Each stops before its next page. */
  stop(): void;
}

/** Starts the threads. Whatever happens, `done` waits for all of them: none is left asleep in a page that nobody will bring. */
export function startReaders(
  memory: Range,
  count: number,
  orders: Omit<ThreadOrders, 'thread' | 'threads' | 'address' | 'byteLength' | 'stop'>,
): Readers {
  const stop = new SharedArrayBuffer(4);
  const each = Array.from({ length: count }, (_, thread) => {
    const { address, byteLength } = memory;
    const workerData: ThreadOrders = { ...orders, thread, threads: count, address, byteLength, stop };
    return reader(new Worker(new URL('./thread.js', import.meta.url), { workerData }));
  });
  return { done: all(each), stop: () => Atomics.store(new Int32Array(stop), 0, 1) };
}

function reader(worker: Worker): Promise<string | undefined> {
  return new Promise((resolve, reject) => {
    let wrong: string | undefined;
    worker.on('message', (sentence: string) => {
      wrong = sentence;
    });
    worker.once('error', reject);
    worker.once('exit', () => resolve(wrong));
  });
}

async function all(each: readonly Promise<string | undefined>[]): Promise<string | undefined> {
  const results = await Promise.allSettled(each);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed !== undefined) throw failed.reason;
  return results
    .map((result) => (result.status === 'fulfilled' ? result.value : undefined))
    .find((wrong) => wrong !== undefined);
}
