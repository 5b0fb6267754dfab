/** gdb that comes while a thread is stopped in a fault, looks, and goes: by itself, or killed. The fault goes on. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Backend } from 'pagefault';
import { gdb, mayAttach, noGdb, quiet } from '../helpers/gdb.js';
import { backends } from '../helpers/stores.js';
import { buildUserAddon } from '../helpers/user-addon.js';

const script = fileURLToPath(new URL('../fixtures/debugged.js', import.meta.url));
const skip = noGdb || (mayAttach() ? false : 'only children may be traced here (ptrace_scope)');
const addon = skip ? '' : buildUserAddon();

// Attaching is the same for all that wait in a handler; each of those gets its turn where one asks for it.
const thorough = process.env['PAGEFAULT_DEBUGGERS'] === 'all';
const tested = thorough ? backends : backends.filter((backend, i) => i === 0 || backend === 'thread');

/** Where a thread waits: in a handler of ours, or, on `thread`, at its instruction, with a service thread at its page. */
function assertWaits(backend: Backend, backtraces: string, text: string): void {
  if (backend === 'thread') {
    assert.match(backtraces, /#0 +(0x[0-9a-f]+ in )?user_load/, text);
    assert.match(backtraces, /pf_page_ensure/, text);
    assert.doesNotMatch(backtraces, /<signal handler called>/, text);
  } else assert.match(backtraces, /pf_page_ensure[\s\S]*<signal handler called>[\s\S]*user_load/, text);
}

async function until(what: string, done: () => boolean): Promise<void> {
  const give = Date.now() + 60_000;
  while (!done()) {
    assert.ok(Date.now() < give, `${what} did not happen`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/** A process one of whose threads waits for a page. */
async function waiting(backend: Backend): Promise<{ child: ChildProcess; pid: string; said(): string }> {
  const child = spawn(process.execPath, [script, backend, addon, 'held'], { stdio: ['pipe', 'pipe', 'inherit'] });
  const timer = setTimeout(() => child.kill('SIGKILL'), 60_000);
  child.once('exit', () => clearTimeout(timer));
  let text = '';
  child.stdout.setEncoding('utf8').on('data', (more: string) => {
    text += more;
  });
  await until('the fault', () => text.includes('waiting'));
  return { child, pid: String(child.pid), said: () => text };
}

/** Attaches, waits for commands, and is killed. */
async function attachAndDie(pid: string): Promise<void> {
  const args = ['-nx', '-q', '-iex', 'set debuginfod enabled off', '-p', pid];
  const debuggerProcess = spawn('gdb', args, { stdio: ['pipe', 'ignore', 'ignore'] });
  const traced = (): boolean => !/^TracerPid:\t0$/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  const stopped = (): boolean =>
    readdirSync(`/proc/${pid}/task`).every((task) =>
      /^State:\tt/m.test(readFileSync(`/proc/${pid}/task/${task}/status`, 'utf8')),
    );
  await until('attaching', () => traced() && stopped());
  debuggerProcess.kill('SIGKILL');
  await once(debuggerProcess, 'exit');
  await until('the end of tracing', () => !traced());
}

/** gdb's own core, which has a gigabyte of what Node has only reserved. */
async function coreOf(backend: Backend, pid: string): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-attach-'));
  const path = join(folder, 'core');
  try {
    const options = { timeoutMs: 300_000 };
    const { text } = await gdb(['-p', pid], [{ name: 'core', commands: [`generate-core-file ${path}`] }], options);
    assert.match(text, /Saved corefile/);
    const look = [{ name: 'threads', commands: ['thread apply all -q backtrace 25'] }];
    const core = await gdb([process.execPath, path], look, options);
    assertWaits(backend, core.steps['threads'] ?? '', core.text);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

for (const backend of tested) {
  test(`gdb attaches to a process that waits for a page, detaches, dies attached, and the page comes [${backend}]`, async (t) => {
    if (skip) return t.skip(skip);
    const { child, pid, said } = await waiting(backend);
    try {
      const { steps, text } = await gdb(
        ['-p', pid],
        [
          { name: 'handle', commands: [quiet, 'info signals SIGBUS'] },
          { name: 'threads', commands: ['thread apply all -q backtrace 25'] },
          { name: 'end', commands: ['detach'] },
        ],
      );
      assert.match(steps['handle'] ?? '', /SIGBUS\s+No\s+No\s+Yes/, text);
      assertWaits(backend, steps['threads'] ?? '', text);
      if (thorough) await coreOf(backend, pid);
      await attachAndDie(pid);
      child.kill('SIGCONT'); // killed while it was still attaching, gdb leaves the process stopped
      assert.doesNotMatch(said(), /touched/);
      child.stdin?.end('go');
      const [code] = (await once(child, 'close')) as [number | null];
      assert.equal(code, 0);
      assert.match(said(), /touched true\nended/);
    } finally {
      child.kill('SIGKILL');
    }
  });
}
