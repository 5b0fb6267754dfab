/** `pagefault serve firecracker` as a process of its own, which is killed after a while, whatever happens. */
import { type ChildProcess, spawn } from 'node:child_process';
import { isListening, until } from './descriptors.js';
import { freshPath } from './firecracker-vm.js';
import { gather, root } from './run.js';

const TIMEOUT_MS = 90_000;

export interface Daemon {
  readonly process: ChildProcess;
  readonly socket: string;
  stdout(): string;
  stderr(): string;
  /** With `--json`: what it has said so far. */
  told(): Record<string, unknown>[];
  readonly ended: Promise<number | null>;
}

/** One that listens, or has ended. `args`: all but `--socket`. */
export function startDaemon(args: readonly string[]): Promise<Daemon> {
  return startDaemonBy(process.execPath, [], args);
}

/** The same, started by another program. */
export async function startDaemonBy(
  program: string,
  before: readonly string[],
  args: readonly string[],
): Promise<Daemon> {
  const socket = freshPath();
  const line = ['dist/cli/main.js', 'serve', 'firecracker', '--socket', socket, ...args];
  const child = spawn(program, [...before, ...line], { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] });
  const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
  const stdout = gather(child.stdout);
  const stderr = gather(child.stderr);
  const told = (): Record<string, unknown>[] =>
    stdout()
      .split('\n')
      .slice(0, -1) // what follows the last newline has not come whole
      .map((text) => JSON.parse(text) as Record<string, unknown>);
  const ended = new Promise<number | null>((resolve) => {
    child.once('close', (code) => {
      clearTimeout(timer);
      resolve(code);
    });
  });
  await until(() => isListening(socket) || child.exitCode !== null, 60_000);
  return { process: child, socket, stdout, stderr, told, ended };
}
