/** Keys in a terminal, while pages are brought: a letter picks a strategy, q ends. Main thread. */
import { readFileSync } from 'node:fs';
import type { Strategy } from '../../guests/strategy.js';

export const KEYS: Readonly<Record<string, Strategy>> = { e: 'eager', o: 'on-demand', r: 'read-ahead', b: 'budget' };
const CTRL_C = '\x03';

export interface KeyHandlers {
  strategy(strategy: Strategy): void;
  /** q. */
  end(): void;
  /** Ctrl-C, which is no signal while keys come one by one. */
  interrupt(): void;
}

/** Listens until the function that comes back is called. Without a terminal, or in the background, it does nothing. */
export function listenToKeys(handlers: KeyHandlers): () => void {
  const { stdin } = process;
  if (!stdin.isTTY || !isInForeground()) return () => {};
  const hear = (bytes: Buffer): void => {
    for (const key of bytes.toString('latin1')) {
      const strategy = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
      if (strategy !== undefined) handlers.strategy(strategy);
      else if (key === 'q') handlers.end();
      else if (key === CTRL_C) handlers.interrupt();
    }
  };
  stdin.setRawMode(true);
  stdin.on('data', hear);
  stdin.unref();
  return () => {
    stdin.off('data', hear);
    stdin.setRawMode(false);
    stdin.pause();
  };
}

/** Whoever changes the terminal from the background is stopped for it (SIGTTOU). */
function isInForeground(): boolean {
  try {
    const stat = readFileSync('/proc/self/stat', 'latin1');
    // After the name, which may hold anything: state, parent, process group, session, terminal, its foreground group.
    const [, , group, , , foreground] = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return group === foreground;
  } catch {
    return false;
  }
}
