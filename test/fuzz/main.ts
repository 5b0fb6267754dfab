/**
 * The fuzz itself, in a process of its own, because a failure may end it or hang it:
 *
 *     node main.js seconds SECONDS SEED [CASES]     cases from SEED on, until the time is over or so many are done
 *     node main.js case FILE                        one case, from JSON
 *
 * Writes the seed of each case before it begins it, and the last line when all is well. Exits with 1 when a case failed.
 */

import { readFileSync, writeSync } from 'node:fs';
import { native } from '#dist/native/load.js';
import { backends } from '../helpers/stores.js';
import { type Case, makeCase } from './case.js';
import { runCase } from './run-case.js';
import { endThreads } from './threads.js';

function say(line: string): void {
  writeSync(1, `${line}\n`);
}

async function one(of: Case): Promise<boolean> {
  try {
    await runCase(of);
    return true;
  } catch (error) {
    say(`failed ${of.seed} ${error instanceof Error ? error.stack : String(error)}`);
    return false;
  }
}

async function many(seconds: number, seed: number, most: number): Promise<boolean> {
  const end = performance.now() + seconds * 1000;
  let count = 0;
  for (; count < most && performance.now() < end; count++) {
    say(`case ${seed + count}`);
    if (!(await one(makeCase(seed + count, backends)))) return false;
  }
  say(`passed ${count}`);
  return true;
}

const [how = '', first = '', second = '', third = ''] = process.argv.slice(2);
const passed =
  how === 'case'
    ? await one(JSON.parse(readFileSync(first, 'utf8')) as Case)
    : await many(Number(first), Number(second), Number(third || 'Infinity'));
await endThreads();
if (passed && how !== 'case') say(`census ${JSON.stringify(native().census())}`);
process.exit(passed ? 0 : 1);
