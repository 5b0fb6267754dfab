/** Runs programs as child processes with a kill timer, and says how they ended. */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';

/** The folder of the project; tests run from build/test. */
export const root: string = fileURLToPath(new URL('../../../', import.meta.url));

export interface Ran {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  /** Descriptors that the program inherits as 3, 4 and so on. */
  fds?: readonly number[];
  /** After this the process is killed with SIGKILL. */
  timeoutMs?: number;
  /** Called with the process once it has started, to act on it while it runs. */
  onSpawn?: (child: ChildProcess) => void;
}

const TIMEOUT_MS = 120_000;

/** Reads all that comes; gives what has come so far. */
export function gather(stream: Readable | null): () => string {
  let text = '';
  stream?.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  return () => text;
}

/** All that a child writes to its standard output, when it has closed that. */
export function outputOf({ stdout }: ChildProcess): Promise<string> {
  const text = gather(stdout);
  return new Promise((resolve) => {
    stdout?.on('close', () => resolve(text()));
  });
}

/** Runs a program; resolves when it has ended and all its output is here. */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  const { env = process.env, cwd = root, timeoutMs = TIMEOUT_MS, onSpawn, fds = [] } = options;
  const child = spawn(program, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe', ...fds] });
  const timer = setTimeout(() => child.kill('SIGKILL'), timeoutMs);
  onSpawn?.(child);
  const stdout = gather(child.stdout);
  const stderr = gather(child.stderr);
  try {
    return await new Promise<Ran>((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => resolve({ code, signal, stdout: stdout(), stderr: stderr() }));
    });
  } finally {
    clearTimeout(timer);
  }
}

/** Runs a script of the project with this Node. */
export function runNode(script: string, args: readonly string[] = [], options: RunOptions = {}): Promise<Ran> {
  return run(process.execPath, [script, ...args], options);
}

/** Runs the command `pagefault`. */
export function runCli(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  return runNode('dist/cli/main.js', args, options);
}
