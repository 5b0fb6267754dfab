/** Makes a failing case simpler, by running simpler ones. */

/** Every way to leave out a part of a list, large parts first. */
export function* shorter<Item>(list: readonly Item[]): IterableIterator<Item[]> {
  for (let part = Math.ceil(list.length / 2); part >= 1; part = part === 1 ? 0 : Math.ceil(part / 2)) {
    for (let at = 0; at < list.length; at += part) yield [...list.slice(0, at), ...list.slice(at + part)];
  }
}

/** Fewer operations, and fewer threads. */
export function* fewer<Op, Case extends { ops: Op[]; threads: Op[][] }>(of: Case): IterableIterator<Case> {
  for (let i = 0; i < of.threads.length; i++) yield { ...of, threads: of.threads.filter((_, at) => at !== i) };
  for (const ops of shorter(of.ops)) yield { ...of, ops };
  for (const [i, list] of of.threads.entries()) {
    for (const ops of shorter(list)) yield { ...of, threads: of.threads.map((other, at) => (at === i ? ops : other)) };
  }
}

/** The simplest case found until `deadline` (ms of performance.now()) that `fails` still says yes to. */
export async function simplest<Case>(
  of: Case,
  simpler: (of: Case) => Iterable<Case>,
  fails: (of: Case) => Promise<boolean>,
  deadline: number,
): Promise<Case> {
  let best = of;
  for (let found = true; found; ) {
    found = false;
    for (const candidate of simpler(best)) {
      if (performance.now() > deadline) return best;
      if (!(await fails(candidate))) continue;
      best = candidate;
      found = true;
      break;
    }
  }
  return best;
}
