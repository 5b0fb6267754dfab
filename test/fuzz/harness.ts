/**
 * What every fuzz has: its cases run in processes of their own, PAGEFAULT_FUZZ_SECONDS long (a few by default), from PAGEFAULT_FUZZ_SEED on (by default
 * another one each time). A failure is told with its seed and the simplest case that still fails.
 */

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { type Ran, runNode } from '../helpers/run.js';
import { simplest } from './shrink.js';

export interface Fuzz<Case> {
  /** Path of the program: see program.ts. */
  readonly program: string;
  readonly make: (seed: number) => Case;
  /** Simpler cases that may fail in the same way. */
  readonly simpler: (of: Case) => Iterable<Case>;
  /** How often a case is run before it counts as passing. */
  readonly tries: (of: Case) => number;
  /** What the environment has besides; the seed modulo their number says which. */
  readonly environments?: readonly NodeJS.ProcessEnv[];
  /** Looks at what is left after a slice in which so many cases passed. */
  readonly after?: (ran: Ran, passed: number) => void;
  readonly seconds: number;
}

const firstSeed = Number(process.env['PAGEFAULT_FUZZ_SEED'] ?? Date.now() % 2 ** 31);
/** A process does not live longer: shared memory is not given back on every version of Node.js. */
const SLICE_SECONDS = 20;
/** A case takes well under a second; one that takes as long as this hangs. */
const HANG_MS = 60_000;
const SHRINK_MS = 90_000;

const folder = mkdtempSync(join(tmpdir(), 'pagefault-fuzz-'));
process.on('exit', () => rmSync(folder, { recursive: true, force: true }));

/** What follows a word at the start of the last line that has it. */
export function last(ran: Ran, word: string): string | undefined {
  const line = ran.stdout.split('\n').findLast((text) => text.startsWith(`${word} `));
  return line?.slice(word.length + 1);
}

function report({ code, signal, stdout, stderr }: Ran): string {
  return `exit code ${code}, signal ${signal}\n${stdout.slice(-2000)}\n${stderr.slice(-2000)}`;
}

class Runner<Case> {
  readonly #fuzz: Fuzz<Case>;
  readonly #environments: readonly NodeJS.ProcessEnv[];

  constructor(fuzz: Fuzz<Case>) {
    this.#fuzz = fuzz;
    this.#environments = fuzz.environments ?? [{}];
  }

  #environment(seed: number): NodeJS.ProcessEnv {
    return { ...process.env, ...this.#environments[seed % this.#environments.length] };
  }

  /** The output of a run of one case that failed, or undefined when none of the tries did. */
  async #failure(of: Case, seed: number): Promise<string | undefined> {
    const path = join(folder, 'case.json');
    writeFileSync(path, JSON.stringify(of));
    for (let i = 0; i < this.#fuzz.tries(of); i++) {
      const ran = await runNode(this.#fuzz.program, ['case', path], {
        timeoutMs: HANG_MS,
        env: this.#environment(seed),
      });
      if (ran.code !== 0) return report(ran);
    }
    return undefined;
  }

  /** Tells all that is needed to see it again. */
  async #tell(seed: number, first: string): Promise<never> {
    const whole = this.#fuzz.make(seed);
    const again = await this.#failure(whole, seed);
    const fails = async (of: Case): Promise<boolean> => (await this.#failure(of, seed)) !== undefined;
    const until = performance.now() + SHRINK_MS;
    const found = again === undefined ? whole : await simplest(whole, this.#fuzz.simpler, fails, until);
    const sentence = again ?? 'it did not fail again when it was run alone';
    const environment = JSON.stringify(this.#environments[seed % this.#environments.length]);
    assert.fail(
      `seed ${seed} failed: ${first}\nalone: ${sentence}\nPAGEFAULT_FUZZ_SEED=${seed} runs it first; as JSON for ${this.#fuzz.program} case FILE, shortened, with ${environment} in the environment:\n${JSON.stringify(found)}\n`,
    );
  }

  /** Cases from `seed` on for some seconds. The seed behind the last. */
  async slice(seed: number, seconds: number): Promise<number> {
    const step = this.#environments.length;
    const args = ['seconds', String(seconds), String(seed), String(step)];
    const options = { timeoutMs: seconds * 1000 + HANG_MS, env: this.#environment(seed) };
    const ran = await runNode(this.#fuzz.program, args, options);
    if (ran.code !== 0) await this.#tell(Number(last(ran, 'case') ?? seed), report(ran));
    const passed = Number(last(ran, 'passed'));
    assert.ok(passed > 0, 'no case was run');
    this.#fuzz.after?.(ran, passed);
    return seed + passed * step;
  }
}

/** Runs cases until the time is over. */
export async function runFuzz<Case>(t: TestContext, fuzz: Fuzz<Case>): Promise<void> {
  const runner = new Runner(fuzz);
  const ways = fuzz.environments?.length ?? 1;
  const seconds = Number(process.env['PAGEFAULT_FUZZ_SECONDS'] ?? fuzz.seconds);
  const end = performance.now() + seconds * 1000;
  const next = Array.from({ length: ways }, (_, i) => firstSeed + i);
  for (let turn = 0; turn < ways || performance.now() < end; turn++) {
    const way = turn % ways;
    const left = Math.max(0, (end - performance.now()) / 1000);
    const share = turn < ways ? left / (ways - turn) : left;
    next[way] = await runner.slice(next[way] ?? firstSeed, Math.max(0.3, Math.min(SLICE_SECONDS, share)));
  }
  const cases = next.reduce((sum, seed, i) => sum + (seed - firstSeed - i) / ways, 0);
  t.diagnostic(`${cases} cases, seeds from ${firstSeed} on`);
}

/** The name of the test, with the seed that it begins with. */
export function withSeed(name: string): string {
  return `${name} (seed ${firstSeed})`;
}
