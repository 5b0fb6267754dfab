/** Starts a supervisor that outlives this process. The daemon's thread. */

import { spawn } from 'node:child_process';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { SupervisorError } from '../../errors/supervisor-error.js';

const MAIN = fileURLToPath(new URL('./main.js', import.meta.url));
const READY_MS = 20_000;

/**
 * In a session of its own, so that neither Ctrl-C nor the end of a terminal reaches it; its sentences go to this process's stderr. Resolves when
 * it listens, or another one does.
 */
export async function startSupervisor(path: string, deadlineMs: number): Promise<void> {
  const { NODE_OPTIONS: _options, NODE_TEST_CONTEXT: _context, ...env } = process.env; // of this program, not of that
  const child = spawn(process.execPath, [MAIN, path, String(deadlineMs), '3'], {
    detached: true,
    env,
    stdio: ['ignore', 'ignore', 'inherit', 'pipe'],
  });
  const pipe = child.stdio?.[3] as Readable | undefined; // none, where there were too few descriptors for it: an 'error' tells
  try {
    const told = await sentence(pipe, child);
    if (told === 'ready' || told.includes('listens there')) return;
    throw new SupervisorError(`the supervisor cannot be started: ${told}`);
  } finally {
    pipe?.destroy();
    child.unref();
  }
}

function sentence(pipe: Readable | undefined, child: ReturnType<typeof spawn>): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      resolve(`it was not ready within ${READY_MS} ms`);
    }, READY_MS);
    const done = (told: string): void => {
      clearTimeout(timer);
      resolve(told);
    };
    child.once('error', (error) => done(error.message));
    pipe?.setEncoding('utf8');
    pipe?.on('error', (error) => done(error.message));
    pipe?.on('data', (part: string) => {
      text += part;
      if (text === 'ready') done(text);
    });
    pipe?.on('end', () => done(text === '' ? 'it ended before it was ready' : text));
  });
}
