/**
 * The fuzz as a test: PAGEFAULT_FUZZ_SECONDS long (a few by default), from PAGEFAULT_FUZZ_SEED on (by default another one each
 * time). A failure is told with its seed and the shortest list of operations that still fails.
 */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Ran, runNode } from '../helpers/run.js';
import { backends } from '../helpers/stores.js';
import { type Case, makeCase } from './case.js';
import { shrink } from './shrink.js';

const program = fileURLToPath(new URL('./main.js', import.meta.url));
const seconds = Number(process.env['PAGEFAULT_FUZZ_SECONDS'] ?? 6);
const firstSeed = Number(process.env['PAGEFAULT_FUZZ_SEED'] ?? Date.now() % 2 ** 31);
/** A process does not live longer: shared memory is not given back on every version of Node.js. */
const SLICE_SECONDS = 20;
/** A case takes well under a second; one that takes as long as this hangs. */
const HANG_MS = 60_000;
const SHRINK_MS = 90_000;
/** A case with threads does not fail every time. */
const TRIES = 4;

const folder = mkdtempSync(join(tmpdir(), 'pagefault-fuzz-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

function last(ran: Ran, word: string): string | undefined {
  return ran.stdout.split('\n').findLast((line) => line.startsWith(`${word} `));
}

/** The output of a run of one case that failed, or undefined when none of the tries did. */
async function failure(of: Case): Promise<string | undefined> {
  const path = join(folder, 'case.json');
  writeFileSync(path, JSON.stringify(of));
  const tries = of.threads.length > 0 || !of.exact ? TRIES : 1;
  for (let i = 0; i < tries; i++) {
    const ran = await runNode(program, ['case', path], { timeoutMs: HANG_MS });
    if (ran.code !== 0) return report(ran);
  }
  return undefined;
}

function report({ code, signal, stdout, stderr }: Ran): string {
  return `exit code ${code}, signal ${signal}\n${stdout.slice(-2000)}\n${stderr.slice(-2000)}`;
}

/** Tells all that is needed to see it again. */
async function tell(seed: number, first: string): Promise<never> {
  const whole = makeCase(seed, backends);
  const again = await failure(whole);
  let found = whole;
  if (again !== undefined) {
    found = await shrink(whole, async (of) => (await failure(of)) !== undefined, performance.now() + SHRINK_MS);
  }
  const sentence = again === undefined ? 'it did not fail again when it was run alone' : again;
  assert.fail(
    `seed ${seed} failed: ${first}\nalone: ${sentence}\nPAGEFAULT_FUZZ_SEED=${seed} runs it first; as JSON for main.js case FILE, shortened:\n${JSON.stringify(found)}\n`,
  );
}

test(`what is read is what the store has, whatever is done in between (seed ${firstSeed})`, async (t) => {
  const end = performance.now() + seconds * 1000;
  let seed = firstSeed;
  let cases = 0;
  do {
    const slice = Math.max(1, Math.min(SLICE_SECONDS, (end - performance.now()) / 1000));
    const args = ['seconds', String(slice), String(seed)];
    const ran = await runNode(program, args, { timeoutMs: slice * 1000 + HANG_MS });
    if (ran.code !== 0) await tell(Number(last(ran, 'case')?.split(' ')[1] ?? seed), report(ran));
    const passed = Number(last(ran, 'passed')?.split(' ')[1]);
    const { regions, threads } = JSON.parse(last(ran, 'census')?.slice('census '.length) ?? '{}');
    assert.ok(passed > 0, 'no case was run');
    // Shared memory stays registered until it is collected, or for good.
    assert.ok(regions <= passed * 3 && threads < 64, `${regions} regions and ${threads} loader threads are left`);
    seed += passed;
    cases += passed;
  } while (performance.now() < end);
  t.diagnostic(`${cases} cases, seeds ${firstSeed} to ${seed - 1}`);
});
