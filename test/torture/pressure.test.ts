/**
 * Limits of the process that are reached: descriptors, address space, memory, threads. At each stage of a segment's life there is an error with a code, or the right
 * bytes, and when there is room again the same thing goes well. The C tests do the same where nothing at all is left (native/test/pressure_test.c).
 */

import assert from 'node:assert/strict';
import { chmodSync } from 'node:fs';
import { dirname } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Backend } from 'pagefault';
import { removeGroup } from '../helpers/cgroup.js';
import { compileAddon } from '../helpers/compile-c.js';
import { nobody, runConfined } from '../helpers/confined.js';
import { type Ran, runNode } from '../helpers/run.js';
import { onEachBackend, patternFile } from '../helpers/stores.js';
import { TaskGroup } from '../helpers/task-group.js';

const program = fileURLToPath(new URL('../fixtures/pressed.js', import.meta.url));
const addon = compileAddon('pressure.c');
const path = patternFile(64 * 4096);
const timeoutMs = 60_000;

/** What goes well under each pressure, too; the other stages may fail. */
const PAGES = ['the first fault of a thread', 'a checked read', 'eviction and staging'];
const UNAFFECTED: Record<string, readonly string[]> = {
  nofile: [...PAGES, 'a flush', 'a pin', 'a load', 'the end of a written segment'],
  as: PAGES,
  data: PAGES,
  tasks: [...PAGES, 'a segment', 'shared memory and a patch'],
  threads: [...PAGES, 'a segment', 'shared memory and a patch'],
};
/** What must fail, and how: else there was no pressure. */
const REFUSED: Record<string, RegExp> = {
  nofile: /^shared memory and a patch: ERR_PAGEFAULT_SYSTEM .*memfd_create/m,
  as: /^a large writable segment with a budget: ERR_PAGEFAULT_NO_MEMORY/m,
  data: /^(a large writable segment with a budget: ERR_PAGEFAULT_NO_MEMORY|all is well)/m,
  tasks: /^a flush: ERR_PAGEFAULT_SYSTEM .*pthread_create/m,
  threads: /^a flush: ERR_PAGEFAULT_SYSTEM .*pthread_create/m,
};

/** V8 ends the process where its own heap, or a Worker, finds no memory (docs/limits.md): before that, everything must have been well. */
const ENDED_BY_V8 = /Fatal process out of memory|FATAL ERROR: .*(memory|heap)/i;

function assertAllWell({ code, signal, stdout, stderr }: Ran, pressure: string): void {
  if (pressure === 'data' && signal !== null && ENDED_BY_V8.test(stderr)) {
    for (const line of stdout.trim().split('\n')) assert.match(line, /^([^:]+: (well|ERR_PAGEFAULT_[A-Z_]+ .+))?$/);
    return;
  }
  assert.deepEqual({ code, signal }, { code: 0, signal: null }, `${stdout}\n${stderr}`);
  const lines = stdout.trim().split('\n');
  assert.equal(lines.pop(), 'all is well');
  for (const line of lines) assert.match(line, /^[^:]+: (well|ERR_PAGEFAULT_[A-Z_]+ .+)$/);
  for (const stage of UNAFFECTED[pressure] ?? []) assert.ok(lines.includes(`${stage}: well`), `${stage}\n${stdout}`);
  assert.match(stdout, REFUSED[pressure] ?? /^$/);
}

for (const pressure of ['nofile', 'as', 'data']) {
  onEachBackend(`a process that reaches its limit (${pressure}) is told so, and loses nothing`, async (backend) => {
    const ran = await runNode(program, [backend, pressure, addon, path], { timeoutMs });
    assertAllWell(ran, pressure);
    if (pressure !== 'nofile') return;
    assert.match(ran.stdout, /^a transfer to a file: ERR_PAGEFAULT_SYSTEM .* \(fcntl\(F_DUPFD_CLOEXEC\), EMFILE: /m);
  });
}

async function withoutThreads(backend: Backend, t: TestContext): Promise<void> {
  const user = nobody(); // root may have as many threads as it likes
  if ('reason' in user) return t.skip(user.reason);
  if (backend === 'thread') return t.skip('user nobody may not serve faults of the kernel');
  chmodSync(dirname(path), 0o755);
  chmodSync(path, 0o666);
  const ran = await runConfined({ uid: user.uid }, program, [backend, 'threads', addon, path], { timeoutMs });
  assertAllWell(ran, 'threads');
}

onEachBackend('a process that may have no more threads is told so, and loses nothing', withoutThreads);

onEachBackend(
  'a process whose cgroup may have no more threads (pids.max) is told so, and loses nothing',
  async (backend, t) => {
    const group = TaskGroup.make(`pagefault-tasks-${process.pid}-${backend}`);
    if (typeof group === 'string') return t.skip(`no such cgroup can be made: ${group}`);
    try {
      assertAllWell(await runNode(program, [backend, 'tasks', addon, path, group.path], { timeoutMs }), 'tasks');
    } finally {
      await removeGroup(group);
    }
  },
);
