/** gdb in batch mode: commands in steps, and what each step printed. */
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { type Ran, type RunOptions, run } from './run.js';

function installed(program: string): boolean {
  return spawnSync(program, ['--version'], { stdio: 'ignore', timeout: 60_000 }).status === 0;
}

/** Why tests with gdb are skipped here, or false. */
export const noGdb: string | false =
  process.arch !== 'x64' ? 'the steps are those of x64' : installed('gdb') ? false : 'gdb is not installed';

/** Whether a process that is no child may be attached to (Yama's ptrace_scope). */
export function mayAttach(): boolean {
  try {
    return Number(readFileSync('/proc/sys/kernel/yama/ptrace_scope', 'utf8')) === 0 || process.getuid?.() === 0;
  } catch {
    return true;
  }
}

export interface Step {
  name: string;
  commands: readonly string[];
}

export interface Debugged extends Ran {
  /** What each step printed, the program's own output in between. */
  steps: Record<string, string>;
  text: string;
}

/** The line that pagefault's documentation gives. */
export const quiet = 'handle SIGBUS SIGSEGV nostop noprint pass';

const setup = [
  'set pagination off',
  'set confirm off',
  'set breakpoint pending on',
  'set width 0',
  'set startup-with-shell off',
];

/** Runs gdb on a program (`target: ['--args', …]`), a process (`['-p', pid]`) or a core. A command that fails does not end the run. */
export async function gdb(
  target: readonly string[],
  steps: readonly Step[],
  options: RunOptions = {},
): Promise<Debugged> {
  const commands = steps.flatMap(({ name, commands }) => [`echo \\n@${name}@\\n`, ...commands]);
  const args = ['-nx', '-batch', '-iex', 'set debuginfod enabled off'];
  for (const command of [...setup, ...commands]) args.push('-ex', command);
  const at = target[0] === '--args' ? [...args, ...target] : [...target.slice(0, 2), ...args, ...target.slice(2)];
  const ran = await run('gdb', at, { timeoutMs: 100_000, ...options });
  const found: Record<string, string> = {};
  // gdb's errors come on stderr, which is a pipe of its own: `2>&1` by a shell would lose the exit code, so they are told apart by step only in stdout.
  for (const part of ran.stdout.split(/\n@(?=[a-z ]+@\n)/).slice(1)) {
    const end = part.indexOf('@\n');
    found[part.slice(0, end)] = part.slice(end + 2);
  }
  return { ...ran, steps: found, text: `${ran.stdout}\n${ran.stderr}` };
}
