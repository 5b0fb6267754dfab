/** `--watch`: a picture of the pages of each child, drawn over itself in a terminal while they are brought. Main thread. */
import { Canvas, type Screen } from '../canvas.js';
import type { Paged } from './paged.js';
import { pictureOf } from './picture.js';

const INTERVAL_MS = 100;

export type { Screen } from '../canvas.js';

/** A terminal for the picture alone: stdout, or stderr while stdout goes elsewhere. */
export function screenOf(options: { json: boolean }): Screen | undefined {
  if (process.stdout.isTTY) return options.json ? undefined : (process.stdout as Screen);
  return process.stderr.isTTY ? (process.stderr as Screen) : undefined;
}

export class Live {
  readonly #canvas: Canvas;
  readonly #timer: NodeJS.Timeout;
  readonly #strategy: () => string;
  readonly #all: Paged[] = [];
  #closed = false;
  #faults = 0;
  #at: number = performance.now();

  constructor(screen: Screen, strategy: () => string) {
    this.#canvas = new Canvas(screen);
    this.#strategy = strategy;
    this.#timer = setInterval(() => this.draw(), INTERVAL_MS);
    this.#timer.unref();
  }

  add(paged: Paged): void {
    this.#all.push(paged);
  }

  draw(): void {
    const { terminal, rows } = this.#canvas;
    const faults = this.#all.reduce((sum, { pager }) => sum + pager.stats().faults, 0);
    const now = performance.now();
    const perSecond = ((faults - this.#faults) * 1000) / Math.max(1, now - this.#at);
    this.#faults = faults;
    this.#at = now;
    this.#canvas.draw(
      pictureOf({ all: this.#all, strategy: this.#strategy(), perSecond, rows, over: this.#closed }, terminal),
    );
  }

  /** Draws the end and leaves it there. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearInterval(this.#timer);
    this.draw();
    this.#canvas.close();
  }
}
