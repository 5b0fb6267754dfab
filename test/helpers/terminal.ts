/** Commands in a terminal of their own. */
import assert from 'node:assert/strict';
import { spawn, spawnSync } from 'node:child_process';
import { root } from './run.js';

const TIMEOUT_MS = 30_000;
const HIDE = '\x1b[?25l';
const SHOW = '\x1b[?25h';

/** util-linux's `script` runs a command in a terminal of its own; without it there is none to be had. */
export const withoutTerminal: string | false =
  spawnSync('script', ['--version']).status === 0 ? false : 'script of util-linux is not installed';

export interface InTerminal {
  shown(): string;
  type(keys: string): void;
  /** The exit code. */
  ended: Promise<number>;
}

/** 24 rows of 60 columns, if nothing else is said. */
export function inTerminal(args: string, size = 'rows 24 cols 60'): InTerminal {
  const command = `stty ${size}; "${process.execPath}" dist/cli/main.js ${args}; echo "exit code $?"; stty -a`;
  const child = spawn('script', ['-qec', command, '/dev/null'], { cwd: root, stdio: ['pipe', 'pipe', 'inherit'] });
  const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
  let shown = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    shown += text;
  });
  const ended = new Promise<number>((resolve) => {
    child.once('close', () => {
      clearTimeout(timer);
      resolve(Number(/exit code (\d+)/.exec(shown)?.[1] ?? -1));
    });
  });
  return { shown: () => shown, type: (keys) => child.stdin.write(keys), ended };
}

/** The terminal is as it was: the cursor shows, keys are lines again. */
export function assertRestored(shown: string): void {
  assert.ok(shown.lastIndexOf(SHOW) >= shown.lastIndexOf(HIDE), 'the cursor shows again');
  assert.match(shown, /[^-]icanon/);
  assert.match(shown, /[^-]echo\b/);
}
