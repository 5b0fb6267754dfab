/** The further threads of a fuzz, kept from one case to the next because starting one takes longer than a case. */

import { Worker } from 'node:worker_threads';

const DEADLINE_MS = 40_000;

/** What a thread answers: what is wrong, or undefined. */
export interface Answer {
  wrong: string | undefined;
}

export class Crew<Message extends { type: string }> {
  readonly #url: URL;
  readonly #threads: Worker[] = [];

  constructor(url: URL) {
    this.#url = url;
  }

  #thread(index: number): Worker {
    const thread = this.#threads[index] ?? new Worker(this.#url);
    this.#threads[index] = thread;
    thread.ref();
    return thread;
  }

  /** What is wrong, in the thread's words, or because there are none. */
  tell(index: number, message: Message): Promise<string | undefined> {
    const worker = this.#thread(index);
    return new Promise((resolve) => {
      const end = (wrong: string | undefined): void => {
        clearTimeout(timer);
        worker.off('message', hear).off('error', fail).off('exit', gone);
        worker.unref();
        resolve(wrong);
      };
      const hear = ({ wrong }: Answer): void => end(wrong);
      const fail = (error: Error): void => end(`an uncaught exception: ${error.stack}`);
      const gone = (code: number): void => end(`it exited with code ${code}`);
      const timer = setTimeout(() => end(`it hangs (${message.type})`), DEADLINE_MS);
      worker.on('message', hear).on('error', fail).on('exit', gone);
      worker.postMessage(message);
    });
  }

  async end(): Promise<void> {
    await Promise.all(this.#threads.splice(0).map((worker) => worker.terminate()));
  }
}
