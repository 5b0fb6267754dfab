/** `--watch`: a picture of the pages of each child, drawn over itself in a terminal while they are brought. Main thread. */
import type { Terminal } from '../../observe/terminal.js';
import { terminalOf } from '../../observe/terminal.js';
import type { Paged } from './paged.js';
import { pictureOf } from './picture.js';
import { writeOut } from './write-out.js';

const INTERVAL_MS = 100;
const HIDE_CURSOR = '\x1b[?25l';
const SHOW_CURSOR = '\x1b[?25h';

/** A stream that is a terminal, on which the picture is drawn. */
export type Screen = NodeJS.WriteStream & { readonly fd: number };

/** A terminal for the picture alone: stdout, or stderr while stdout goes elsewhere. */
export function screenOf(options: { json: boolean }): Screen | undefined {
  if (process.stdout.isTTY) return options.json ? undefined : (process.stdout as Screen);
  return process.stderr.isTTY ? (process.stderr as Screen) : undefined;
}

export class Live {
  readonly #screen: Screen;
  readonly #timer: NodeJS.Timeout;
  readonly #strategy: () => string;
  readonly #all: Paged[] = [];
  readonly #showCursor = (): void => this.#write(SHOW_CURSOR);
  #closed = false;
  #drawn = 0;
  #faults = 0;
  #at: number = performance.now();

  constructor(screen: Screen, strategy: () => string) {
    this.#screen = screen;
    this.#strategy = strategy;
    this.#write(HIDE_CURSOR);
    process.once('exit', this.#showCursor);
    this.#timer = setInterval(() => this.draw(), INTERVAL_MS);
    this.#timer.unref();
  }

  add(paged: Paged): void {
    this.#all.push(paged);
  }

  draw(): void {
    const { columns, unicode, paint }: Terminal = terminalOf(this.#screen);
    const terminal: Terminal = { columns: Math.min(columns, this.#screen.columns ?? columns), unicode, paint };
    const faults = this.#all.reduce((sum, { pager }) => sum + pager.stats().faults, 0);
    const now = performance.now();
    const perSecond = ((faults - this.#faults) * 1000) / Math.max(1, now - this.#at);
    this.#faults = faults;
    this.#at = now;
    const rows = Math.max(8, (this.#screen.rows ?? 24) - 1);
    const lines = pictureOf(
      { all: this.#all, strategy: this.#strategy(), perSecond, rows, over: this.#closed },
      terminal,
    );
    const up = this.#drawn > 0 ? `\x1b[${this.#drawn}A` : '';
    this.#drawn = lines.length;
    this.#write(`${up}\r\x1b[J${lines.join('\n')}\n`);
  }

  /** Draws the end and leaves it there. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#timer);
    this.draw();
    process.off('exit', this.#showCursor);
    this.#showCursor();
  }

  #write(text: string): void {
    writeOut(this.#screen.fd, text);
  }
}
