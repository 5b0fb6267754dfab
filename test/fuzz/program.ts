/**
 * A fuzz itself, in a process of its own, because a failure may end it or hang it:
 *
 *     node main.js seconds SECONDS SEED [STEP]     cases SEED, SEED + STEP and so on, until the time is over
 *     node main.js case FILE                       one case, from JSON
 *
 * Writes the seed of each case before it begins it, and the last line when all is well. Exits with 1 when a case failed.
 */

import { readFileSync, writeSync } from 'node:fs';

export interface Program<Case> {
  make(seed: number): Case;
  /** Throws what is wrong. */
  run(of: Case): Promise<void>;
  /** Before the first case and after the last; may write lines. */
  begin?(): Promise<void>;
  end?(): Promise<void>;
}

export function say(line: string): void {
  writeSync(1, `${line}\n`);
}

async function one<Case>(program: Program<Case>, of: Case): Promise<boolean> {
  try {
    await program.run(of);
    return true;
  } catch (error) {
    say(`failed ${error instanceof Error ? error.stack : String(error)}`);
    return false;
  }
}

async function many<Case>(program: Program<Case>, seconds: number, seed: number, step: number): Promise<boolean> {
  const end = performance.now() + seconds * 1000;
  await program.begin?.();
  let count = 0;
  do {
    const of = seed + count * step;
    say(`case ${of}`);
    if (!(await one(program, program.make(of)))) return false;
    count += 1;
  } while (performance.now() < end);
  await program.end?.();
  say(`passed ${count}`);
  return true;
}

export async function main<Case>(program: Program<Case>): Promise<never> {
  const [how = '', first = '', second = '', third = ''] = process.argv.slice(2);
  const passed =
    how === 'case'
      ? await one(program, JSON.parse(readFileSync(first, 'utf8')) as Case)
      : await many(program, Number(first), Number(second), Number(third || '1'));
  process.exit(passed ? 0 : 1);
}
