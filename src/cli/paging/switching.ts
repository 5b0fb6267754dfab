/** Strategies that change while pages are brought: after so many faults, and by a key. The pager's thread. */
import type { Observe } from '../../guests/events.js';
import type { Strategy } from '../../guests/strategy.js';
import type { Pager } from './paged.js';
import type { Speaker } from './speaker.js';

/** One for all that is paged by this run. */
export class Switching {
  readonly #speaker: Speaker;
  readonly #pagers: Pager[] = [];
  readonly #next: Strategy[];
  readonly #after: number;
  #current: Strategy;
  #faults = 0;
  #sinceSwitch = 0;

  constructor(strategies: readonly [Strategy, ...Strategy[]], after: number | undefined, speaker: Speaker) {
    const [first, ...next] = strategies;
    this.#current = first;
    this.#next = next;
    this.#after = after ?? Number.POSITIVE_INFINITY;
    this.#speaker = speaker;
  }

  get current(): Strategy {
    return this.#current;
  }

  /** Whether it must see the faults. */
  get counts(): boolean {
    return this.#after !== Number.POSITIVE_INFINITY;
  }

  add(pager: Pager): void {
    this.#pagers.push(pager);
    if (pager.strategy !== this.#current) pager.strategy = this.#current;
  }

  /** Counts a fault once its page is there: while the thread that waits for it is still asleep. */
  readonly observe: Observe = (event) => {
    if (event.type !== 'copied' || event.ahead) return;
    this.#faults += 1;
    this.#sinceSwitch += 1;
    if (this.#sinceSwitch < this.#after) return;
    const next = this.#next.shift();
    if (next !== undefined) this.switchTo(next, 'faults');
  };

  switchTo(next: Strategy, by: 'faults' | 'key'): void {
    if (next === this.#current) return;
    const faults = this.counts ? this.#faults : this.#pagers.reduce((sum, pager) => sum + pager.stats().faults, 0);
    this.#speaker.say({ type: 'strategy', from: this.#current, to: next, faults, by });
    this.#current = next;
    this.#sinceSwitch = 0;
    for (const pager of this.#pagers) pager.strategy = next;
  }
}
