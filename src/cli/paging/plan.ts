/** What the command line of `pagefault paging` asks for, checked. Main thread. */
import { constants } from 'node:os';
import { STRATEGIES, type Strategy } from '../../guests/strategy.js';
import { nearest } from '../../options/keys.js';
import type { Arguments } from '../command.js';
import { usageError } from '../exit.js';

/** Where pages may lie. */
export const MEMORIES = ['mmap', 'malloc', 'brk', 'shm', 'hugetlb'] as const;
export type MemoryName = (typeof MEMORIES)[number];

const MOST_PAGES = 2 ** 32;
const MOST_CHILDREN = 256;
const MOST_THREADS = 256;
const LEAST_RESIDENT = 4;

export interface Plan {
  readonly pages: number;
  /** 0: no child process, threads of this one. */
  readonly children: number;
  /** 0: each child reads with its main thread. */
  readonly threads: number;
  readonly memory: MemoryName;
  /** At least one; the others follow, `switchAfter` faults each. */
  readonly strategies: readonly [Strategy, ...Strategy[]];
  readonly switchAfter: number | undefined;
  readonly readahead: number;
  /** Pages that may be there at once, in strategy budget. */
  readonly resident: number;
  readonly write: boolean;
  readonly passes: number;
  readonly pauseMs: number;
  readonly childExit: number;
  readonly childSignal: NodeJS.Signals | undefined;
  readonly signalfd: boolean;
  readonly watch: boolean;
  readonly explain: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
}

export function planOf(args: Arguments): Plan {
  const pages = pagesOf(args.positionals[0] ?? '');
  const threads = within(args, 'threads', MOST_THREADS) ?? 0;
  const children = within(args, 'children', MOST_CHILDREN) ?? (threads > 0 ? 0 : 1);
  const strategies = strategiesOf(args);
  const plan: Plan = {
    pages,
    children,
    threads,
    memory: args.choice('memory', MEMORIES) ?? 'mmap',
    strategies,
    switchAfter: args.count('switch-after', 1),
    readahead: within(args, 'readahead', 65_536) ?? 8,
    resident: Math.max(LEAST_RESIDENT, args.count('resident', 1) ?? Math.ceil(pages / 4)),
    write: args.flag('write'),
    passes: strategies.includes('budget') ? 2 : 1,
    pauseMs: within(args, 'pause', 60_000) ?? 0,
    childExit: exitCodeOf(args),
    childSignal: signalOf(args),
    signalfd: args.flag('signalfd'),
    watch: args.flag('watch'),
    explain: args.flag('explain'),
    quiet: args.flag('quiet'),
    json: args.flag('json'),
  };
  checkTogether(args, plan);
  return plan;
}

function pagesOf(text: string): number {
  const pages = /^\d[\d_,]*$/.test(text) ? Number(text.replace(/[_,]/g, '')) : Number.NaN;
  if (pages >= 1 && pages <= MOST_PAGES) return pages;
  throw usageError(`PAGES must be a whole number from 1 to 2^32, not '${text}'`, 'Such as pagefault paging 3.');
}

function within(args: Arguments, name: string, most: number): number | undefined {
  const value = args.count(name, 1);
  if (value !== undefined && value > most) throw usageError(`--${name} must be at most ${most}, not ${value}`);
  return value;
}

function strategiesOf(args: Arguments): readonly [Strategy, ...Strategy[]] {
  const text = args.text('strategy') ?? 'on-demand';
  const [first, ...others] = text.split(',').map((word) => {
    const found = STRATEGIES.find((strategy) => strategy === word);
    if (found !== undefined) return found;
    const meant = nearest(word, STRATEGIES);
    throw usageError(
      `--strategy must be one of ${STRATEGIES.join(', ')}, or several with commas, not '${word}'`,
      meant === undefined ? undefined : `Did you mean --strategy ${meant}?`,
    );
  });
  return [first ?? 'on-demand', ...others];
}

function exitCodeOf(args: Arguments): number {
  const code = args.count('child-exit', 0) ?? 0;
  if (code > 255) throw usageError(`--child-exit must be an exit code from 0 to 255, not ${code}`);
  return code;
}

/** Signals that no process can be ended by: they stop it, or are ignored. */
const NOT_DEADLY = [
  'SIGSTOP',
  'SIGTSTP',
  'SIGTTIN',
  'SIGTTOU',
  'SIGCONT',
  'SIGCHLD',
  'SIGURG',
  'SIGWINCH',
  'SIGPIPE',
  'SIGUSR1',
];

function signalOf(args: Arguments): NodeJS.Signals | undefined {
  const text = args.text('child-signal');
  if (text === undefined) return undefined;
  const names = Object.keys(constants.signals) as NodeJS.Signals[];
  const upper = text.toUpperCase();
  const found = names.find((name) => name === upper || name === `SIG${upper}`);
  if (found === undefined) {
    const meant = nearest(upper.startsWith('SIG') ? upper : `SIG${upper}`, names);
    throw usageError(
      `there is no signal '${text}'`,
      meant === undefined ? undefined : `Did you mean --child-signal ${meant}?`,
    );
  }
  if (NOT_DEADLY.includes(found)) {
    throw usageError(
      `--child-signal must be a signal that ends a process; ${found} does not end this one`,
      `Send it from outside: kill -${found.slice(3)} PID.`,
    );
  }
  return found;
}

/** What does not go together. */
function checkTogether(args: Arguments, plan: Plan): void {
  if (plan.switchAfter !== undefined && plan.strategies.length < 2) {
    throw usageError('--switch-after needs at least two strategies: --strategy on-demand,eager --switch-after 3');
  }
  if (plan.switchAfter === undefined && plan.strategies.length > 1) {
    throw usageError('several strategies need --switch-after N: after how many faults the next one follows');
  }
  if (args.text('resident') !== undefined && !plan.strategies.includes('budget')) {
    throw usageError('--resident is the limit of --strategy budget, which is not asked for');
  }
  if (plan.children > 0) return;
  for (const name of ['child-exit', 'child-signal', 'signalfd']) {
    if (args.flag(name)) throw usageError(`--${name} needs a child; --threads alone has none`, 'Add --children 1.');
  }
}
