/** Keys in a terminal, one by one, for commands that go on until they are told. Main thread. */
import { readFileSync } from 'node:fs';

const CTRL_C = '\x03';
const ESCAPE = '\x1b[';

/** Keys that are no characters. */
export const KEY: { readonly up: string; readonly down: string } = { up: `${ESCAPE}A`, down: `${ESCAPE}B` };

export interface KeyHandlers {
  /** Any key but Ctrl-C: a character, or what a terminal sends for one such as an arrow (`KEY`). */
  key(key: string): void;
  /** Ctrl-C, which is no signal while keys come one by one. */
  interrupt(): void;
}

/** Listens until the function that comes back is called. Without a terminal, or in the background, it does nothing. */
export function hearKeys(handlers: KeyHandlers): () => void {
  const { stdin } = process;
  if (!stdin.isTTY || !isInForeground()) return () => {};
  const hear = (bytes: Buffer): void => {
    for (const key of keysIn(bytes.toString('latin1'))) {
      if (key === CTRL_C) handlers.interrupt();
      else handlers.key(key);
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

/** Characters, and sequences that begin with ESC [ and end with a letter or a tilde. */
function* keysIn(text: string): Generator<string> {
  for (let at = 0; at < text.length; ) {
    const sequence = text.startsWith(ESCAPE, at) ? /^[\d;]*[A-Za-z~]/.exec(text.slice(at + ESCAPE.length)) : null;
    const key = sequence === null ? text.charAt(at) : ESCAPE + sequence[0];
    yield key;
    at += key.length;
  }
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
