/**
 * Random cases of paged children: PAGEFAULT_FUZZ_SECONDS long (a few by default), from PAGEFAULT_FUZZ_SEED on (by default another one each time). A
 * failure is told with its seed and the simplest case that still fails.
 */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Ran, runNode } from '../../helpers/run.js';
import { type Case, makeCase, simpler } from './case.js';

const program = fileURLToPath(new URL('./main.js', import.meta.url));
const seconds = Number(process.env['PAGEFAULT_FUZZ_SECONDS'] ?? 6);
const firstSeed = Number(process.env['PAGEFAULT_FUZZ_SEED'] ?? Date.now() % 2 ** 31);
const SLICE_SECONDS = 20;
const HANG_MS = 60_000;
const SHRINK_MS = 90_000;
/** Threads do not meet in the same way every time. */
const TRIES = 4;

const folder = mkdtempSync(join(tmpdir(), 'pagefault-guest-fuzz-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

function last(ran: Ran, word: string): number | undefined {
  const line = ran.stdout.split('\n').findLast((text) => text.startsWith(`${word} `));
  return line === undefined ? undefined : Number(line.split(' ')[1]);
}

function report({ code, signal, stdout, stderr }: Ran): string {
  return `exit code ${code}, signal ${signal}\n${stdout.slice(-2000)}\n${stderr.slice(-2000)}`;
}

/** The output of a run of one case that failed, or undefined when none of the tries did. */
async function failure(of: Case): Promise<string | undefined> {
  const path = join(folder, 'case.json');
  writeFileSync(path, JSON.stringify(of));
  for (let i = 0; i < TRIES; i++) {
    const ran = await runNode(program, ['case', path], { timeoutMs: HANG_MS });
    if (ran.code !== 0) return report(ran);
  }
  return undefined;
}

async function shrink(of: Case, deadline: number): Promise<Case> {
  let best = of;
  for (let found = true; found; ) {
    found = false;
    for (const candidate of simpler(best)) {
      if (performance.now() > deadline) return best;
      if ((await failure(candidate)) === undefined) continue;
      best = candidate;
      found = true;
      break;
    }
  }
  return best;
}

async function tell(seed: number, first: string): Promise<never> {
  const whole = makeCase(seed);
  const again = await failure(whole);
  const found = again === undefined ? whole : await shrink(whole, performance.now() + SHRINK_MS);
  const alone = again ?? 'it did not fail again when it was run alone';
  assert.fail(
    `seed ${seed} failed: ${first}\nalone: ${alone}\nPAGEFAULT_FUZZ_SEED=${seed} runs it first; as JSON for main.js case FILE:\n${JSON.stringify(found)}\n`,
  );
}

test(`a child reads what the store has or what it wrote, whatever happens (seed ${firstSeed})`, async (t) => {
  const end = performance.now() + seconds * 1000;
  let seed = firstSeed;
  do {
    const slice = Math.max(1, Math.min(SLICE_SECONDS, (end - performance.now()) / 1000));
    const ran = await runNode(program, ['seconds', String(slice), String(seed)], {
      timeoutMs: slice * 1000 + HANG_MS,
    });
    if (ran.code !== 0) await tell(last(ran, 'case') ?? seed, report(ran));
    const passed = last(ran, 'passed') ?? 0;
    assert.ok(passed > 0, 'no case was run');
    seed += passed;
  } while (performance.now() < end);
  t.diagnostic(`seeds ${firstSeed} to ${seed - 1}`);
});
