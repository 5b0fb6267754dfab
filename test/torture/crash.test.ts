/**
 * A process that writes to a segment is killed with SIGKILL at random moments. What flush had acknowledged is in the store, or something newer, and each
 * system page is whole: of one generation, never a mixture. A killed process loses nothing that the kernel has, so this says
 * nothing of the power; that a disk which fails is noticed is tested in test/conformance/disks.test.ts.
 *
 * PAGEFAULT_CRASH_KILLS: how many kills, a few dozen by default; 1000 take four minutes and more:
 * PAGEFAULT_CRASH_KILLS=1000 node --test build/test/torture/crash.test.js
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Backend } from 'pagefault';
import { fillUnit, readUnit, UNIT } from '../fixtures/generations.js';
import { backends, temporaryPath } from '../helpers/stores.js';

const program = fileURLToPath(new URL('../fixtures/crashing.js', import.meta.url));
const UNITS = 256;
const KILLS = Number(process.env['PAGEFAULT_CRASH_KILLS'] ?? 0);
const AT_ONCE = 2;
/** A child that is not ready by then hangs. */
const HANG_MS = 60_000;
const SHORT_MS = 60;
const LONG_MS = 10_000;

interface Combination {
  store: 'file' | 'custom' | 'custom onWrite';
  pageSize: number;
  resident: number | 'none';
  /** PAGEFAULT_WITHOUT, only of backend signal. */
  without?: string;
}

const combinations: readonly Combination[] = [
  { store: 'file', pageSize: 4096, resident: 'none' },
  { store: 'file', pageSize: 4096, resident: 32 * 4096 },
  { store: 'file', pageSize: 65_536, resident: 6 * 65_536 },
  { store: 'custom', pageSize: 4096, resident: 32 * 4096 },
  { store: 'custom', pageSize: 65_536, resident: 'none' },
  { store: 'custom onWrite', pageSize: 4096, resident: 32 * 4096 },
  { store: 'file', pageSize: 4096, resident: 32 * 4096, without: 'wp_async' },
  { store: 'custom', pageSize: 65_536, resident: 6 * 65_536, without: 'wp_async,move' },
];

const figures = { kills: 0, duringFlush: 0, beforeReady: 0, flushes: 0, units: 0, newer: 0 };

/** A file, and what is known of it over all the processes that wrote to it. */
class Chain {
  readonly path: string = temporaryPath();
  readonly journal: string = temporaryPath();
  /** The least generation that each unit must have. */
  readonly least: Uint32Array = new Uint32Array(UNITS);
  next = 1;

  constructor() {
    const words = new Uint32Array((UNITS * UNIT) / 4);
    for (let unit = 0; unit < UNITS; unit++) fillUnit(words, unit, 0);
    writeFileSync(this.path, words);
  }

  /** Reads the journal of a process that is dead; the last line may be cut off. */
  readJournal(): { begun: number; flushing: boolean } {
    let begun = this.next - 1;
    let flushing = 0;
    for (const line of readFileSync(this.journal, 'utf8').split('\n').slice(0, -1)) {
      const [what, first = '', ...units] = line.split(' ');
      if (what === 'W') begun = Number(first);
      if (what === 'F') flushing += 1;
      if (what !== 'A') continue;
      flushing -= 1;
      figures.flushes += 1;
      for (const unit of units) this.least[Number(unit)] = Number(first);
    }
    return { begun, flushing: flushing > 0 };
  }

  check(begun: number): void {
    const file = readFileSync(this.path);
    assert.equal(file.length, UNITS * UNIT);
    const words = new Uint32Array(file.buffer.slice(file.byteOffset, file.byteOffset + file.length));
    for (let unit = 0; unit < UNITS; unit++) {
      const found = readUnit(words, unit);
      if ('broken' in found) assert.fail(found.broken);
      const least = this.least[unit] ?? 0;
      const { generation } = found;
      assert.ok(generation >= least, `page ${unit} has generation ${generation}, and flush acknowledged ${least}`);
      assert.ok(generation <= begun, `page ${unit} has generation ${generation}, and none after ${begun} was begun`);
      figures.units += 1;
      if (generation > least) figures.newer += 1;
      this.least[unit] = generation; // what the file has, it must keep
    }
    this.next = begun + 1;
  }
}

/** Milliseconds in which a child that is ready is killed: longer as long as most are killed before they have flushed, as on a machine that is busy. */
let span = SHORT_MS;

async function killOnce(backend: Backend, chosen: Combination, chain: Chain): Promise<void> {
  writeFileSync(chain.journal, '');
  const { store, pageSize, resident, without = '' } = chosen;
  const args = [backend, store, chain.path, chain.journal, pageSize, resident, chain.next].map(String);
  const env = { ...process.env, PAGEFAULT_WITHOUT: without };
  const child = spawn(process.execPath, [program, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let stderr = '';
  let ready = false;
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const after = Math.random() ** 2 * span;
  const kill = (): boolean => child.kill('SIGKILL');
  const timers = [setTimeout(kill, HANG_MS)];
  if (Math.random() < 0.05) timers.push(setTimeout(kill, 60 + Math.random() * 200)); // while it starts, and opens what the last one left
  child.stdout.once('data', () => {
    ready = true;
    timers.push(setTimeout(kill, after));
  });
  const start = performance.now();
  const [code, signal] = await once(child, 'close');
  timers.forEach(clearTimeout);
  assert.ok(performance.now() - start < HANG_MS, `it hung: ${stderr}`);
  assert.equal(signal, 'SIGKILL', `it ended by itself, code ${code}: ${stderr}`);
  assert.equal(stderr, '');
  const { begun, flushing } = chain.readJournal();
  figures.kills += 1;
  span = figures.flushes > figures.kills ? SHORT_MS : Math.min(2 * span, LONG_MS);
  figures.duringFlush += flushing ? 1 : 0;
  figures.beforeReady += ready ? 0 : 1;
  chain.check(begun);
}

const runs = backends.flatMap((backend) =>
  combinations
    .filter(({ without }) => without === undefined || backend === 'signal')
    .map((combination) => ({ backend, combination })),
);
const each = Math.max(2, Math.ceil(KILLS / runs.length));

for (const { backend, combination } of runs) {
  const { store, pageSize, resident, without } = combination;
  const what = [
    backend,
    store,
    `pages of ${pageSize}`,
    `resident ${resident}`,
    ...(without === undefined ? [] : [`without ${without}`]),
  ];
  test(`what flush acknowledged survives SIGKILL, and no page is torn [${what.join(', ')}]`, async () => {
    let left = each;
    const lane = async (): Promise<void> => {
      const chain = new Chain();
      while (left-- > 0) await killOnce(backend, combination, chain);
    };
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
  });
}

test('the kills hit what they were meant to', (t) => {
  t.diagnostic(JSON.stringify(figures));
  assert.ok(figures.kills >= KILLS);
  assert.ok(figures.flushes > figures.kills, 'many flushes were acknowledged');
  assert.ok(figures.duringFlush > 0, 'some were killed during a flush');
  assert.ok(figures.newer > 0, 'some pages were in the store before their flush was acknowledged');
});
