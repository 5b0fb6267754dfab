/** Daemons that die in the worst of moments: the next one goes on, and no byte is wrong. The pager is plain JavaScript, which can be made to die then. */

import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface, type Interface } from 'node:readline';
import { type TestContext, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Wanted } from '../../fixtures/supervised-daemon.js';
import { compileC } from '../../helpers/compile-c.js';
import { until } from '../../helpers/descriptors.js';
import { socketPath } from '../../helpers/supervised.js';

const TIMEOUT = { timeout: 120_000 };
const MIB = 2 ** 20;
const daemonScript = fileURLToPath(new URL('../../fixtures/supervised-daemon.js', import.meta.url));
const program = compileC('firecracker.c');

/** A program that says lines. */
class Talker {
  readonly child: ChildProcess;
  readonly ended: Promise<[number | null, NodeJS.Signals | null]>;
  readonly lines: string[] = [];
  stderr = '';
  #read = 0;

  constructor(t: TestContext, command: string, args: readonly string[]) {
    this.child = spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    this.ended = once(this.child, 'exit') as typeof this.ended;
    const reader: Interface = createInterface({ input: this.child.stdout ?? assert.fail() });
    reader.on('line', (line) => this.lines.push(line));
    this.child.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text;
    });
    t.after(() => this.child.kill('SIGKILL'));
  }

  /** The next line that it says. */
  async line(): Promise<string> {
    const { child } = this;
    const over = (): boolean => child.exitCode !== null || child.signalCode !== null;
    await until(() => this.lines.length > this.#read || over(), 60_000);
    return this.lines[this.#read++] ?? `ended: ${child.signalCode ?? child.exitCode}: ${this.stderr}`;
  }

  async order(text: string): Promise<string> {
    this.child.stdin?.write(`${text}\n`);
    return await this.line();
  }

  async kill(): Promise<void> {
    this.child.kill('SIGKILL');
    await this.ended;
  }
}

interface Place {
  readonly socket: string;
  readonly supervisor: string;
}

function place(t: TestContext): Place {
  const path = socketPath(t);
  return { socket: `${path}-fc`, supervisor: path };
}

/** A daemon that listens. `adopted`: of the one before. */
async function daemon(
  t: TestContext,
  wanted: Wanted,
): Promise<{ daemon: Talker; supervisor: number; adopted: number }> {
  const talker = new Talker(t, process.execPath, [daemonScript, JSON.stringify(wanted)]);
  for (let adopted = 0; ; adopted++) {
    const line = await talker.line();
    const [, ready] = /^ready (\d+)$/.exec(line) ?? [];
    if (ready !== undefined) return { daemon: talker, supervisor: Number(ready), adopted };
    assert.match(line, /^(adopted|taken) \d+$/);
  }
}

async function guest(t: TestContext, { socket }: Place, era: string, ...regions: number[]): Promise<Talker> {
  const talker = new Talker(t, program, [socket, '--era', era, '--regions', regions.join(',')]);
  assert.match(await talker.line(), /^ready/);
  return talker;
}

for (const dieWith of ['pagefault', 'remove'] as const) {
  test(`a daemon that dies between reading a ${dieWith} message and acting on it`, TIMEOUT, async (t) => {
    const at = place(t);
    const wanted = { ...at, deadlineMs: 60_000 };
    const first = await daemon(t, { ...wanted, dieWith });
    const talker = await guest(t, at, '1.12', MIB);
    const [order, then] = dieWith === 'remove' ? ['remove', 'zero'] : ['verify', 'verify'];
    const answer = talker.order(`${order} 0 ${MIB} 8`);
    assert.deepEqual(await first.daemon.ended, [null, 'SIGKILL']);
    const second = await daemon(t, wanted);
    assert.equal(second.adopted, 1);
    assert.equal(await answer, 'ok');
    assert.equal(await talker.order(`${then} 0 ${MIB} 8`), 'ok');
  });
}

test('the supervisor and then the daemon die: what was held again is handed over', TIMEOUT, async (t) => {
  const at = place(t);
  const wanted = { ...at, deadlineMs: 60_000 };
  const first = await daemon(t, wanted);
  const talker = await guest(t, at, '1.12', 4 * MIB);
  assert.match(await first.daemon.line(), /^guest/);
  const answer = talker.order(`balloon 0 ${4 * MIB} 8 2`);
  process.kill(first.supervisor, 'SIGKILL');
  assert.match(await first.daemon.line(), /^lost: /);
  assert.equal(await first.daemon.line(), 'back');
  await first.daemon.kill();
  const second = await daemon(t, wanted);
  assert.notEqual(second.supervisor, first.supervisor);
  assert.equal(second.adopted, 1);
  assert.equal(await answer, 'ok');
});
