/** The further threads of a case. */

import type { Segment } from 'pagefault';
import type { Op } from './case.js';
import { Crew } from './crew.js';
import type { ThreadTask, ToThread } from './thread.js';
import type { Truth } from './truth.js';

const crew = new Crew<ToThread>(new URL('./thread.js', import.meta.url));

interface Shared {
  readonly segment: Segment;
  readonly truth: Truth;
  readonly risky: number;
}

export class Threads {
  readonly #done: Promise<string | undefined>[];

  private constructor(done: Promise<string | undefined>[]) {
    this.#done = done;
  }

  static async run(subjects: readonly Shared[], lists: readonly Op[][]): Promise<Threads> {
    if (lists.length === 0) return new Threads([]);
    const handles = subjects.map(({ segment }) => segment.handle);
    const truths = subjects.map(({ truth }) => truth.parts);
    const risky = subjects.map((subject) => subject.risky);
    return new Threads(
      lists.map((ops, i) => {
        const task: ThreadTask = { handles, truths, risky, ops };
        return crew.tell(i, { type: 'run', task });
      }),
    );
  }

  /** What went wrong in each. */
  done(): Promise<(string | undefined)[]> {
    return Promise.all(this.#done);
  }

  close(): Promise<(string | undefined)[]> {
    return Promise.all(this.#done.map((_, i) => crew.tell(i, { type: 'close' })));
  }
}

export async function endThreads(): Promise<void> {
  await crew.end();
}
