/** Writing in a cgroup that has less memory than what is written: a budget keeps the process alive, and what was flushed outlives the OOM killer. */

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Backend } from 'pagefault';
import { BUDGET, PAGE, wordOf } from '../fixtures/overrun.js';
import { MemoryGroup, removeGroup } from '../helpers/cgroup.js';
import { type Ran, runNode } from '../helpers/run.js';
import { temporaryPath } from '../helpers/stores.js';
import { onEachWritableBackend, writableBackends } from '../helpers/writable.js';

const program = fileURLToPath(new URL('../fixtures/overrun.js', import.meta.url));
const LENGTH = 4 * BUDGET;
let groups = 0;

interface Overrun extends Ran {
  path: string;
  /** What was said to be flushed: by page, the round. */
  flushed: Map<number, number>;
}

async function overrun(backend: Backend, budget: string, way: string, t: TestContext): Promise<Overrun | undefined> {
  groups += 1;
  const group = MemoryGroup.make(`pagefault-overrun-${process.pid}-${groups}`);
  if (typeof group === 'string') {
    t.skip(`no memory cgroup can be made: ${group}`);
    return undefined;
  }
  try {
    if (way === 'throttle' && !group.throttle(LENGTH * 4)) {
      t.skip('memory.high is of cgroup version 2, and the memory controller is mounted as version 1');
      return undefined;
    }
    const path = temporaryPath();
    writeFileSync(path, new Uint8Array(LENGTH));
    const ran = await runNode(program, [group.path, backend, path, budget, way], { timeoutMs: 120_000 });
    const flushed = new Map<number, number>();
    for (const [, round, last] of ran.stdout.matchAll(/^(\d+) (\d+)$/gm)) {
      for (let page = Number(last) - 511; page <= Number(last); page++) flushed.set(page, Number(round));
    }
    return { ...ran, path, flushed };
  } finally {
    await removeGroup(group);
  }
}

/** Every page of the file is whole, and no older than what was flushed. */
function assertKept({ path, flushed }: Overrun): void {
  const words = new Uint32Array(new Uint8Array(readFileSync(path)).buffer);
  for (let page = 0; page < LENGTH / PAGE; page++) {
    const first = words[(page * PAGE) / 4] ?? 0;
    const round = first & 15;
    assert.ok(
      round >= (flushed.get(page) ?? 0) && (first === 0 || first === wordOf(page, round)),
      `page ${page}: ${first}`,
    );
    const end = ((page + 1) * PAGE) / 4;
    for (let i = (page * PAGE) / 4; i < end; i++) if (words[i] !== first) assert.fail(`page ${page} is torn`);
  }
}

onEachWritableBackend('with a budget a process writes four times what its cgroup may hold', async (backend, t) => {
  const ran = await overrun(backend, String(BUDGET), 'limit', t);
  if (ran === undefined) return;
  assert.equal(ran.code, 0, `${ran.signal} ${ran.stderr}`);
  assert.match(ran.stdout, /^all$/m);
  assertKept(ran);
});

onEachWritableBackend('without one the OOM killer ends it, and what was flushed is there', async (backend, t) => {
  const ran = await overrun(backend, 'none', 'limit', t);
  if (ran === undefined) return;
  assert.doesNotMatch(ran.stdout, /^all$/m);
  assert.ok(
    ran.signal === 'SIGKILL' || /ERR_PAGEFAULT_NO_MEMORY/.test(ran.stderr),
    `${ran.code} ${ran.signal} ${ran.stderr}`,
  );
  assert.ok(ran.flushed.size > 0, 'it was ended before it had flushed anything');
  assertKept(ran);
});

test('memory.high slows a process down, and loses nothing', async (t) => {
  const [backend] = writableBackends;
  const ran = backend === undefined ? undefined : await overrun(backend, String(BUDGET), 'throttle', t);
  if (ran === undefined) return;
  assert.equal(ran.code, 0, `${ran.signal} ${ran.stderr}`);
  assertKept(ran);
});
