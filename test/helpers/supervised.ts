/** Guests for tests of the supervisor: a process that sleeps, with a userfaultfd and states that belong to nobody's memory. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { HeldGuest, Supervisor } from 'pagefault/guests';
import { Memfd, PidFd, Uffd } from 'pagefault/kernel';
import { until } from './descriptors.js';

export interface Sleeper {
  readonly pid: number;
  readonly pidfd: PidFd;
  readonly uffd: Uffd;
  readonly states: Memfd;
  /** How it ended. */
  readonly ended: Promise<[number | null, NodeJS.Signals | null]>;
  /** Of this process's descriptors; the process goes on. */
  close(): void;
}

/** Gone at the end of the test. */
export async function sleeper(t: TestContext): Promise<Sleeper> {
  const child = spawn('sleep', ['600'], { stdio: 'ignore' });
  await once(child, 'spawn');
  const ended = once(child, 'exit') as Sleeper['ended'];
  t.after(() => child.kill('SIGKILL'));
  const pidfd = PidFd.open(child.pid ?? -1);
  const uffd = Uffd.open({ userModeOnly: true });
  const states = Memfd.create('states', { byteLength: 4096 });
  const close = (): void => {
    pidfd.close();
    uffd.close();
    states.close();
  };
  t.after(close);
  return { pid: pidfd.pid, pidfd, uffd, states, ended, close };
}

/** A path for a socket; at the end of the test nothing listens there any more. */
export function socketPath(t: TestContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-super-'));
  const path = join(folder, 'supervisor');
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return path;
}

/** How many descriptors of a kind a process has: 'userfaultfd', 'pidfd', 'states'. */
export function descriptorsOf(pid: number, kind: string): number {
  let count = 0;
  for (const fd of readdirSync(`/proc/${pid}/fdinfo`)) {
    try {
      const info = readFileSync(`/proc/${pid}/fdinfo/${fd}`, 'latin1');
      if (kind === 'pidfd' && /^Pid:/m.test(info)) count++;
      if (kind === 'userfaultfd' && /^API:/m.test(info)) count++;
    } catch {
      // closed meanwhile
    }
  }
  return count;
}

/** Drops what is held, closes, and waits until the supervisor has ended. */
export async function finish(supervisor: Supervisor, ...held: HeldGuest[]): Promise<void> {
  const { pid } = supervisor;
  for (const guest of held) await guest.drop();
  supervisor.close();
  await until(() => pid === undefined || !existsSync(`/proc/${pid}/exe`) || isZombie(pid));
}

export function isZombie(pid: number): boolean {
  try {
    return /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'latin1'));
  } catch {
    return true;
  }
}
