/**
 * The fuzz of paged children, in a process of its own:
 *
 *     node main.js seconds SECONDS SEED     cases from SEED on
 *     node main.js case FILE                one case, from JSON
 *
 * Writes the seed of each case before it begins it. Exits with 1 when a case failed, or left a descriptor.
 */

import { readFileSync, writeSync } from 'node:fs';
import { openFds, until } from '../../helpers/descriptors.js';
import { type Case, makeCase } from './case.js';
import { runCase } from './run-case.js';

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

async function many(seconds: number, seed: number): Promise<boolean> {
  const end = performance.now() + seconds * 1000;
  let count = 0;
  await one({ ...makeCase(0), store: 'memory' }); // the core opens descriptors of its own, once
  const before = openFds();
  for (; performance.now() < end; count++) {
    say(`case ${seed + count}`);
    if (!(await one(makeCase(seed + count)))) return false;
  }
  await until(() => openFds() <= before, 5000);
  say(`passed ${count}`);
  return true;
}

const [how = '', first = '', second = ''] = process.argv.slice(2);
const passed =
  how === 'case'
    ? await one(JSON.parse(readFileSync(first, 'utf8')) as Case)
    : await many(Number(first), Number(second));
process.exit(passed ? 0 : 1);
