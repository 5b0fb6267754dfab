/** Turns what happens while pages are brought into lines, as it happens. The pager's thread. */
import type { Observe, PagingEvent } from '../../guests/events.js';
import type { DirtyPages } from './dirty.js';
import type { Explainer, StepName } from './explain.js';
import type { Letters } from './letters.js';
import type { Speaker } from './speaker.js';

export interface Observing {
  readonly letters: Letters;
  readonly dirty: DirtyPages;
  readonly speaker: Speaker;
  readonly explainer: Explainer;
  /** The words say which child. */
  readonly several: boolean;
  /** What it takes until there can be faults. */
  readonly steps: readonly StepName[];
}

type Event<Type extends PagingEvent['type']> = Extract<PagingEvent, { type: Type }>;

/** Lines of one child, or of the threads of this process. What becomes of a child is a matter of `statuses.ts`. */
export function linesOf(observing: Observing): Observe {
  const lines = new PageLines(observing);
  return (event) => lines.hear(event);
}

class PageLines {
  readonly #observing: Observing;
  /** Pages whose bytes the pager keeps, since they were written to. */
  readonly #saved = new Set<number>();
  #base = 0n;
  #pageSize = 0;

  constructor(observing: Observing) {
    this.#observing = observing;
  }

  hear(event: PagingEvent): void {
    const { speaker, explainer, several, steps, dirty } = this.#observing;
    switch (event.type) {
      case 'region':
        this.#base = event.address;
        this.#pageSize = event.pageSize;
        explainer.explain(...steps);
        break;
      case 'fault':
        this.#fault(event);
        break;
      case 'copied':
        this.#copied(event);
        break;
      case 'written':
        dirty.add(event.page);
        explainer.explain('unprotect');
        speaker.say({ type: 'written', child: event.pid, several, page: event.page });
        break;
      case 'evicted':
        this.#evicted(event);
        break;
      case 'removed':
        dirty.remove(event.page, event.count);
        speaker.say({ type: 'removed', child: event.pid, several, page: event.page, count: event.count });
        break;
      default:
        break; // a page that cannot be had ends the child, and the command with the reason
    }
  }

  #fault({ pid: child, kind, access, address, page, thread: tid }: Event<'fault'>): void {
    const { speaker, explainer, several } = this.#observing;
    explainer.explain('read-event');
    speaker.say({ type: 'fault', child, several, kind, access, address, page, tid });
  }

  #copied({ pid: child, page, byteLength, ahead }: Event<'copied'>): void {
    const { speaker, explainer, several, letters } = this.#observing;
    const address = this.#base + BigInt(page * this.#pageSize);
    const letter = letters.letterOf(page);
    const saved = this.#saved.has(page);
    explainer.explain('copy');
    speaker.say({ type: 'copied', child, several, byteLength, letter, address, page, ahead, saved });
    if (!ahead) explainer.explain('wake');
  }

  #evicted({ pid: child, page, saved }: Event<'evicted'>): void {
    const { speaker, explainer, several } = this.#observing;
    if (saved) this.#saved.add(page);
    else this.#saved.delete(page);
    explainer.explain('evict');
    speaker.say({ type: 'evicted', child, several, page, saved });
  }
}
