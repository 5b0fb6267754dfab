/** Runs of `pagefault paging`, their lines, and the processes they leave. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from './descriptors.js';
import { gather, type Ran, type RunOptions, root, runCli } from './run.js';

const TIMEOUT_MS = 30_000;

export function paging(args: readonly string[], options: RunOptions = {}): Promise<Ran> {
  return runCli(['paging', ...args], { timeoutMs: TIMEOUT_MS, ...options });
}

/** A run that must succeed in silence on stderr: its lines. */
export async function linesOf(args: readonly string[], options: RunOptions = {}, tries = 20): Promise<string[]> {
  const { code, signal, stdout, stderr } = await paging(args, options);
  const inTheWay = code === 1 && /brk gives no/.test(stdout + stderr); // V8 has put code behind the break of that process
  if (inTheWay && tries > 1) return await linesOf(args, options, tries - 1);
  assert.equal(stderr, '');
  assert.deepEqual({ code, signal }, { code: 0, signal: null }, stdout);
  assert.ok(stdout.endsWith('\n'));
  return stdout.slice(0, -1).split('\n');
}

export type Document = { type: string; pid?: number } & Record<string, unknown>;

/** A run with `--json`: an object a line. */
export async function documentsOf(args: readonly string[], options: RunOptions = {}): Promise<Document[]> {
  return (await linesOf([...args, '--json'], options)).map((line) => JSON.parse(line) as Document);
}

/** The last object of a run with `--json`. */
export async function summaryOf(args: readonly string[]): Promise<Document & Record<string, number>> {
  const summary = (await documentsOf([...args, '--quiet'])).at(-1);
  assert.equal(summary?.type, 'summary');
  return summary as Document & Record<string, number>;
}

/** What a transcript says, with names in place of what differs from run to run: [P] the parent, [C] the child, addresses from the first mapping on. */
export function shapeOf(lines: readonly string[]): string[] {
  const parent = /^\[(\d+)\]/.exec(lines[0] ?? '')?.[1] ?? '';
  const child = /child (\d+) started/.exec(lines.join('\n'))?.[1] ?? '';
  const base = BigInt(/mapped \d+ pages? at (0x[0-9a-f]+)/.exec(lines.join('\n'))?.[1] ?? '0x0');
  return lines.map((line) =>
    line
      .replaceAll(new RegExp(`\\b${parent}\\b`, 'g'), 'P')
      .replaceAll(new RegExp(`\\b${child}\\b`, 'g'), 'C')
      .replaceAll(/0x[0-9a-f]{6,}/g, (address) => `+0x${(BigInt(address) - base).toString(16)}`),
  );
}

export function isAlive(pid: number): boolean {
  if (!existsSync(`/proc/${pid}/stat`)) return false;
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  return !/^[ZX]/.test(stat.slice(stat.lastIndexOf(')') + 2)); // a zombie that nobody has waited for is no process
}

/** A run that is going on: what it said so far, and its processes. */
export interface Going {
  readonly process: ChildProcess;
  readonly pid: number;
  stdout(): string;
  stderr(): string;
  /** Process ids of the children that were started so far. */
  children(): number[];
  said(what: RegExp): Promise<void>;
  ended(): Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

/** Starts a run that goes on long enough to do something to it. It is killed after a while, whatever happens. */
export function start(args: readonly string[], options: { env?: NodeJS.ProcessEnv; detached?: boolean } = {}): Going {
  const child = spawn(process.execPath, [join(root, 'dist/cli/main.js'), 'paging', ...args], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...options,
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), TIMEOUT_MS);
  const stdout = gather(child.stdout);
  const stderr = gather(child.stderr);
  const ended = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('exit', (code, signal) => {
      clearTimeout(timer);
      setImmediate(() => resolve({ code, signal }));
    });
  });
  return {
    process: child,
    pid: child.pid ?? 0,
    stdout,
    stderr,
    children: () => [...stdout().matchAll(/child (\d+) started/g)].map(([, pid]) => Number(pid)),
    said: (what) => until(() => what.test(stdout()), TIMEOUT_MS),
    ended: () => ended,
  };
}

/** Waits until none of them is there. */
export async function gone(pids: readonly number[]): Promise<void> {
  await until(() => !pids.some(isAlive));
}
