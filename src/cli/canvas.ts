/** A picture in a terminal that is drawn over itself, without a cursor in it. Main thread. */
import { type Terminal, terminalOf } from '../observe/terminal.js';
import { writeOut } from './paging/write-out.js';

const HIDE_CURSOR = '\x1b[?25l';
const SHOW_CURSOR = '\x1b[?25h';
const DEFAULT_ROWS = 24;

/** A stream that is a terminal, on which a picture is drawn. */
export type Screen = NodeJS.WriteStream & { readonly fd: number };

/** Begins at the line the cursor is in. The cursor comes back with `close`, or at exit. */
export class Canvas {
  readonly #screen: Screen;
  readonly #showCursor = (): void => this.#write(SHOW_CURSOR);
  #drawn = 0;

  constructor(screen: Screen) {
    this.#screen = screen;
    this.#write(HIDE_CURSOR);
    process.once('exit', this.#showCursor);
  }

  /** As wide as the terminal is now, and no wider than pictures are. */
  get terminal(): Terminal {
    const { columns, unicode, paint } = terminalOf(this.#screen);
    return { columns: Math.min(columns, this.#screen.columns ?? columns), unicode, paint };
  }

  /** Lines that fit, with the one below them. */
  get rows(): number {
    return Math.max(8, (this.#screen.rows ?? DEFAULT_ROWS) - 1);
  }

  /** In place of what was drawn last. */
  draw(lines: readonly string[]): void {
    const up = this.#drawn > 0 ? `\x1b[${this.#drawn}A` : '';
    this.#drawn = lines.length;
    this.#write(`${up}\r\x1b[J${lines.join('\n')}\n`);
  }

  /** Leaves the last picture there. */
  close(): void {
    process.off('exit', this.#showCursor);
    this.#showCursor();
  }

  #write(text: string): void {
    writeOut(this.#screen.fd, text);
  }
}
