/** `pagefault workingset show FILE`: which pages a working set has, in numbers and as a picture. Main thread. */
import { resolve } from 'node:path';
import { renderWorkingSet, summarizeWorkingSet } from '../observe/working-set.js';
import { readWorkingSet, type WorkingSet } from '../pager/working-set/index.js';
import type { Arguments, Command } from './command.js';
import { EXIT, type ExitCode, usageError } from './exit.js';
import type { Output } from './output.js';

/** Every stretch of neighbours, in order of first touch. */
function stretches({ runs }: WorkingSet): object[] {
  return Array.from(runs.first, (page, i) => ({
    page,
    count: runs.count[i],
    atUs: runs.atUs[i],
    spanUs: runs.spanUs[i],
    seen: runs.seen[i],
  }));
}

async function run(args: Arguments, output: Output): Promise<ExitCode> {
  const [action = '', file = ''] = args.positionals;
  if (action !== 'show') throw usageError(`workingset cannot '${action}'`, 'It is pagefault workingset show FILE.');
  const path = resolve(file);
  const set = await readWorkingSet(path);
  const order = args.flag('order') ? { order: stretches(set) } : {};
  output.result({ file: path, ...summarizeWorkingSet(set), ...order }, () => renderWorkingSet(set, output.terminal));
  return EXIT.ok;
}

export const workingSet: Command = {
  name: 'workingset',
  summary: 'show FILE: the pages that runs touched, when, how often, and where they lie',
  positionals: ['show', 'FILE'],
  options: {
    order: { help: 'with --json: every stretch of neighbours, in order of first touch' },
  },
  examples: [
    { line: 'pagefault workingset show vm.ws', what: 'numbers, and two maps of the snapshot: where, and when' },
    {
      line: 'pagefault workingset show vm.ws --json --order',
      what: 'for a script: every page, in order of first touch',
    },
  ],
  run,
};
