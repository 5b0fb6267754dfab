/** Threads that touch memory while the test's own thread serves their faults. */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { Mapping, Range, Uffd, UffdEvent } from 'pagefault/kernel';
import type { Order } from '../fixtures/toucher.js';

export interface Toucher {
  /** Resolves to what the order gave, once it is through. */
  order(what: Order['do'], range: Range, offset?: number, value?: number): Promise<number>;
  end(): Promise<void>;
}

export async function toucher(): Promise<Toucher> {
  const worker = new Worker(new URL('../fixtures/toucher.js', import.meta.url));
  await once(worker, 'message');
  return {
    async order(what, { address, byteLength }, offset = 0, value = 0) {
      worker.postMessage({ do: what, address, byteLength, offset, value } satisfies Order);
      const [answer] = (await once(worker, 'message')) as [number];
      return answer;
    },
    async end() {
      await worker.terminate();
    },
  };
}

/** The next event, within ten seconds. */
export async function nextEvent(uffd: Uffd): Promise<UffdEvent> {
  for (let tries = 0; tries < 5000; tries++) {
    const event = uffd.readEvent();
    if (event !== undefined) return event;
    await sleep(2);
  }
  throw new Error('no event came');
}

/** Closes them in the order that leaves nobody waiting: the memory first. */
export function closeAll(uffd: Uffd, ...mappings: Mapping[]): void {
  for (const mapping of mappings) mapping.unmap();
  uffd.close();
}
