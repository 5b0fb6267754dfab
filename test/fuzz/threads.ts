/** The further threads of a case, kept from one case to the next because starting one takes longer than a case. */

import { Worker } from 'node:worker_threads';
import type { Segment } from 'pagefault';
import type { Op } from './case.js';
import type { FromThread, ThreadTask, ToThread } from './thread.js';
import type { Truth } from './truth.js';

const DEADLINE_MS = 40_000;
const pool: Worker[] = [];

function thread(index: number): Worker {
  pool[index] ??= new Worker(new URL('./thread.js', import.meta.url));
  pool[index].ref();
  return pool[index];
}

/** The next answer, or a sentence when none comes. */
function answer(worker: Worker, message: ToThread): Promise<string | undefined> {
  return new Promise((resolve) => {
    const end = (wrong: string | undefined): void => {
      clearTimeout(timer);
      worker.off('message', hear).off('error', fail).off('exit', gone);
      worker.unref();
      resolve(wrong);
    };
    const hear = ({ wrong }: FromThread): void => end(wrong);
    const fail = (error: Error): void => end(`an uncaught exception: ${error.stack}`);
    const gone = (code: number): void => end(`it exited with code ${code}`);
    const timer = setTimeout(() => end(`it hangs (${message.type})`), DEADLINE_MS);
    worker.on('message', hear).on('error', fail).on('exit', gone);
    worker.postMessage(message);
  });
}

interface Shared {
  readonly segment: Segment;
  readonly truth: Truth;
  readonly risky: number;
}

export class Threads {
  readonly #workers: Worker[];
  readonly #done: Promise<string | undefined>[];

  private constructor(workers: Worker[], done: Promise<string | undefined>[]) {
    this.#workers = workers;
    this.#done = done;
  }

  static async run(subjects: readonly Shared[], lists: readonly Op[][]): Promise<Threads> {
    if (lists.length === 0) return new Threads([], []);
    const handles = subjects.map(({ segment }) => segment.handle);
    const truths = subjects.map(({ truth }) => truth.parts);
    const risky = subjects.map((subject) => subject.risky);
    const workers = lists.map((_, i) => thread(i));
    const done = lists.map((ops, i) => {
      const task: ThreadTask = { handles, truths, risky, ops };
      return answer(workers[i] as Worker, { type: 'run', task });
    });
    return new Threads(workers, done);
  }

  /** What went wrong in each. */
  done(): Promise<(string | undefined)[]> {
    return Promise.all(this.#done);
  }

  close(): Promise<(string | undefined)[]> {
    return Promise.all(this.#workers.map((worker) => answer(worker, { type: 'close' })));
  }
}

export async function endThreads(): Promise<void> {
  await Promise.all(pool.splice(0).map((worker) => worker.terminate()));
}
