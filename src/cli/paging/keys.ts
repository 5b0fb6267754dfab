/** Keys in a terminal, while pages are brought: a letter picks a strategy, q ends. Main thread. */
import type { Strategy } from '../../guests/strategy.js';
import { hearKeys } from '../keys.js';

export const KEYS: Readonly<Record<string, Strategy>> = { e: 'eager', o: 'on-demand', r: 'read-ahead', b: 'budget' };

export interface KeyHandlers {
  strategy(strategy: Strategy): void;
  /** q. */
  end(): void;
  /** Ctrl-C. */
  interrupt(): void;
}

/** Listens until the function that comes back is called. Without a terminal, or in the background, it does nothing. */
export function listenToKeys(handlers: KeyHandlers): () => void {
  return hearKeys({
    key: (key) => {
      const strategy = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
      if (strategy !== undefined) handlers.strategy(strategy);
      else if (key === 'q') handlers.end();
    },
    interrupt: () => handlers.interrupt(),
  });
}
