/** Makes the list of operations of a failing case shorter, by running it again with fewer. */

import type { Case, Op } from './case.js';

/** Every way to leave out a part of a list, large parts first. */
function* shorter(ops: readonly Op[]): IterableIterator<Op[]> {
  for (let part = Math.ceil(ops.length / 2); part >= 1; part = part === 1 ? 0 : Math.ceil(part / 2)) {
    for (let at = 0; at < ops.length; at += part) yield [...ops.slice(0, at), ...ops.slice(at + part)];
  }
}

/** Simpler cases that may fail in the same way. */
function* simpler(of: Case): IterableIterator<Case> {
  for (let i = 0; i < of.threads.length; i++) yield { ...of, threads: of.threads.filter((_, at) => at !== i) };
  for (const ops of shorter(of.ops)) yield { ...of, ops };
  for (const [i, list] of of.threads.entries()) {
    for (const ops of shorter(list)) yield { ...of, threads: of.threads.map((other, at) => (at === i ? ops : other)) };
  }
}

/** The simplest case found until `deadline` (ms of performance.now()) that `fails` still says yes to. */
export async function shrink(of: Case, fails: (of: Case) => Promise<boolean>, deadline: number): Promise<Case> {
  let best = of;
  for (;;) {
    let found = false;
    for (const candidate of simpler(best)) {
      if (performance.now() > deadline) return best;
      if (!(await fails(candidate))) continue;
      best = candidate;
      found = true;
      break;
    }
    if (!found) return best;
  }
}
