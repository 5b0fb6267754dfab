/** One line of progress, drawn over itself and cleared at the end. Main thread. */
import { formatBytes } from '../observe/index.js';

const INTERVAL_MS = 100;

/** Writes to the stream only if `shown`; every method is harmless otherwise. */
export class Progress {
  readonly #stream: NodeJS.WriteStream;
  readonly #shown: boolean;
  #next = 0;

  constructor(stream: NodeJS.WriteStream, shown: boolean) {
    this.#stream = stream;
    this.#shown = shown;
  }

  /** At most ten times a second. */
  update(what: string, done: number, total: number): void {
    if (!this.#shown || performance.now() < this.#next) return;
    this.#next = performance.now() + INTERVAL_MS;
    const percent = String(Math.floor((done / Math.max(1, total)) * 100)).padStart(3);
    this.#stream.write(`\r\x1b[2K${percent} %  ${what}  ${formatBytes(done)} of ${formatBytes(total)}`);
  }

  clear(): void {
    if (this.#shown && this.#next > 0) this.#stream.write('\r\x1b[2K');
    this.#next = 0;
  }
}
