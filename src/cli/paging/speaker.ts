/** Who says the lines: one for each process and thread that takes part. Any thread. */
import { fieldsOf, type Line, wordsOf } from './line.js';
import { writeOut } from './write-out.js';

/** How lines look. Plain data: the parent hands it to its children and their threads. */
export interface Voice {
  readonly json: boolean;
  /** Nothing is said. */
  readonly silent: boolean;
}

const STDOUT = 1;

export class Speaker {
  readonly silent: boolean;
  readonly #json: boolean;
  readonly #thread: number | undefined;
  readonly #unheard: () => void;
  #over = false;

  /** `unheard` runs once, when nobody reads stdout any more; by default that ends the process in peace, as `| head` expects. */
  constructor(voice: Voice, options: { thread?: number; unheard?: () => void } = {}) {
    this.silent = voice.silent;
    this.#json = voice.json;
    this.#thread = options.thread;
    this.#unheard = options.unheard ?? (() => process.exit(0));
  }

  say(line: Line): void {
    if (this.silent) return;
    this.write(this.#json ? this.#document(line) : this.#text(line));
  }

  /** A line of its own making, also where nothing else is said. */
  write(text: string): void {
    if (this.#over || writeOut(STDOUT, `${text}\n`)) return;
    this.#over = true;
    this.#unheard();
  }

  #text(line: Line): string {
    if (line.type === 'explain') return wordsOf(line);
    const thread = this.#thread === undefined ? '' : `/t${this.#thread}`;
    return `[${process.pid}${thread}] ${wordsOf(line)}`;
  }

  #document(line: Line): string {
    const thread = this.#thread === undefined ? {} : { thread: this.#thread };
    return JSON.stringify({ pid: process.pid, ...thread, ...fieldsOf(line) });
  }
}
