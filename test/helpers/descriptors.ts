/** Descriptors that tests watch and count. */
import { execFileSync } from 'node:child_process';
import { constants, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** How many descriptors this process has open. */
export function openFds(): number {
  return readdirSync('/proc/self/fd').length;
}

/** Whether somebody listens at the socket: it is there a moment earlier, and refuses. */
export function isListening(path: string): boolean {
  const LISTENS = 0x10000; // __SO_ACCEPTCON in /proc/net/unix
  return readFileSync('/proc/net/unix', 'utf8')
    .split('\n')
    .some((line) => line.endsWith(` ${path}`) && (Number.parseInt(line.split(/ +/)[3] ?? '', 16) & LISTENS) !== 0);
}

/** A pipe that is written and read by one descriptor, non-blocking. */
export function openFifo(): number {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-fifo-'));
  try {
    const path = join(folder, 'fifo');
    execFileSync('mkfifo', [path]);
    return openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Waits until `condition` holds, looking every few milliseconds; throws after `timeoutMs`. */
export async function until(condition: () => boolean, timeoutMs = 30_000): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`not so after ${timeoutMs} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 3));
  }
}
