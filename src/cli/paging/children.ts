/** `pagefault paging` with child processes: starts them, waits for them, leaves none behind. Main thread. */
import type { Observe } from '../../guests/events.js';
import { Child, type Starting } from './child-process.js';
import type { ChildSignals } from './child-signals.js';
import type { Explainer } from './explain.js';
import { linesOf } from './observer.js';
import type { Orders } from './orders.js';
import type { Paged } from './paged.js';
import type { Plan } from './plan.js';
import type { Speaker, Voice } from './speaker.js';
import { sayStatus } from './statuses.js';
import type { Switching } from './switching.js';

export interface Running {
  readonly plan: Plan;
  readonly pageSize: number;
  readonly voice: Voice;
  readonly speaker: Speaker;
  readonly explainer: Explainer;
  readonly switching: Switching;
  readonly signal: AbortSignal;
  /** Hears of each thing that is paged as soon as there is one. */
  readonly started: (paged: Paged) => void;
}

/** Resolves when all have ended: with the first error, if one did not end well. */
export async function runChildren(running: Running): Promise<Error | undefined> {
  const { plan, speaker, explainer, switching, signal } = running;
  const signals = plan.signalfd ? new (await import('./child-signals.js')).ChildSignals(speaker, explainer) : undefined;
  const children: Child[] = [];
  let failed: Error | undefined;
  try {
    const endings: Promise<void>[] = [];
    for (let i = 0; i < plan.children && !signal.aborted; i++) {
      const child = await Child.start(startingOf(running, signals));
      children.push(child);
      child.pager.on('status', (status) =>
        sayStatus(speaker, explainer, child.pager.pid, status, signals !== undefined),
      );
      if (signals !== undefined) child.pager.child.unref(); // libuv will never hear of its end
      switching.add(child.pager);
      running.started(child);
      endings.push(
        child.ended().then(({ error }) => {
          failed ??= error;
        }),
      );
    }
    await Promise.all(endings);
    return failed;
  } finally {
    await Promise.all(children.map((child) => child.pager.close()));
    signals?.close();
  }
}

function startingOf(running: Running, signals: ChildSignals | undefined): Starting {
  const { plan, pageSize, voice, speaker, explainer, signal } = running;
  return {
    plan,
    pageSize,
    orders: ordersOf(plan, pageSize, voice),
    speaker,
    explainer,
    watchStatus: signals?.watchStatus,
    signal,
    observeWith: (letters, dirty) => {
      const steps = [
        'receive-fd',
        ...(plan.strategies[0] === 'eager' ? (['eager'] as const) : []),
        'ack',
        'poll',
      ] as const;
      return observerOf(running, linesOf({ letters, dirty, speaker, explainer, several: plan.children > 1, steps }));
    },
  };
}

/** Nobody listens where nothing is said and nothing is counted. */
export function observerOf(
  { speaker, switching }: Pick<Running, 'speaker' | 'switching'>,
  lines: Observe,
): Observe | undefined {
  if (speaker.silent) return switching.counts ? switching.observe : undefined;
  if (!switching.counts) return lines;
  return (event) => {
    lines(event);
    switching.observe(event);
  };
}

function ordersOf(plan: Plan, pageSize: number, voice: Voice): Orders {
  const { pages, passes, write, pauseMs, explain, threads, memory, childExit, childSignal } = plan;
  const task = { pages, pageSize, passes, write, pauseMs };
  return { voice, explain, task, threads, memory, exitCode: childExit, signal: childSignal };
}
