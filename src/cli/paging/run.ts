/** A run of `pagefault paging` from the first line to the last. Main thread. */

import { setMaxListeners } from 'node:events';
import { reasonOf } from '../../errors/reason.js';
import type { Strategy } from '../../guests/strategy.js';
import { checkHugePages } from '../../kernel/huge-pages.js';
import { systemPageSize } from '../../native/load.js';
import type { Arguments } from '../command.js';
import { CliError, codeOf, EXIT, type ExitCode, exitCodeOf, interruptedError } from '../exit.js';
import type { Output } from '../output.js';
import { type Running, runChildren } from './children.js';
import { Explainer } from './explain.js';
import { checkHugePagesFree } from './huge-pages.js';
import { listenToKeys } from './keys.js';
import { Live, type Screen, screenOf } from './live.js';
import { runThreads } from './local.js';
import type { Paged } from './paged.js';
import { type Plan, planOf } from './plan.js';
import { Speaker, type Voice } from './speaker.js';
import { sentenceOf, summaryOf } from './summary.js';
import { Switching } from './switching.js';

export async function run(args: Arguments, output: Output, signal: AbortSignal): Promise<ExitCode> {
  const plan = planOf(args);
  const pageSize = plan.memory === 'hugetlb' ? (checkHugePages('--memory hugetlb', true) ?? 0) : systemPageSize();
  if (plan.memory === 'hugetlb') checkHugePagesFree(pageSize, plan.pages * Math.max(1, plan.children));
  const screen = plan.watch ? screenOf(plan) : undefined;
  if (plan.watch && screen === undefined) {
    process.stderr.write(
      'pagefault: --watch needs a terminal for itself, on stdout, or on stderr where stdout goes elsewhere; going on without\n',
    );
  }
  // Where the picture is, there can be no lines.
  const drawnOver = screen !== undefined && screen.fd === 1;
  const voice: Voice = { json: plan.json, silent: plan.quiet || drawnOver };
  return await new Run(plan, pageSize, voice, screen, output, signal).toEnd();
}

/** What ends a run early: a signal, a key, or that nobody reads its lines any more (`| head`). */
type Ending = 'SIGINT' | 'SIGTERM' | 'q' | 'unheard';

class Run {
  readonly #plan: Plan;
  readonly #pageSize: number;
  readonly #speaker: Speaker;
  readonly #explainer: Explainer;
  readonly #switching: Switching;
  readonly #voice: Voice;
  readonly #live: Live | undefined;
  readonly #output: Output;
  readonly #ending = new AbortController();
  readonly #interrupt: AbortSignal;
  readonly #all: Paged[] = [];
  #ended: Ending | undefined;

  constructor(
    plan: Plan,
    pageSize: number,
    voice: Voice,
    screen: Screen | undefined,
    output: Output,
    interrupt: AbortSignal,
  ) {
    this.#plan = plan;
    this.#pageSize = pageSize;
    this.#voice = voice;
    this.#output = output;
    this.#interrupt = interrupt;
    setMaxListeners(plan.children + 1, this.#ending.signal); // each child listens, and is no leak
    this.#speaker = new Speaker(voice, { unheard: () => this.#end('unheard') });
    this.#explainer = new Explainer(plan.explain ? this.#speaker : undefined);
    this.#switching = new Switching(plan.strategies, plan.switchAfter, this.#speaker);
    this.#live = screen === undefined ? undefined : new Live(screen, () => this.#switching.current);
  }

  async toEnd(): Promise<ExitCode> {
    const terminated = (): void => this.#end('SIGTERM');
    const interrupted = (): void => this.#end('SIGINT');
    process.once('SIGTERM', terminated);
    this.#interrupt.addEventListener('abort', interrupted, { once: true });
    const stopListening = this.#listen();
    try {
      return await this.#through();
    } finally {
      stopListening();
      this.#live?.close();
      process.off('SIGTERM', terminated);
      this.#interrupt.removeEventListener('abort', interrupted);
    }
  }

  /** Keys are for who sees what they do. */
  #listen(): () => void {
    const seen = this.#live !== undefined || (!this.#voice.silent && process.stdout.isTTY === true);
    if (!seen) return () => {};
    return listenToKeys({
      strategy: (next) => this.#switchTo(next),
      end: () => this.#end('q'),
      interrupt: () => this.#end('SIGINT'),
    });
  }

  #end(by: Ending): void {
    this.#ended ??= by;
    this.#ending.abort();
  }

  async #through(): Promise<ExitCode> {
    const speaker = this.#speaker;
    speaker.say({ type: 'parent-entering' });
    speaker.say({ type: 'page-size', pageSize: this.#pageSize });
    const begin = performance.now();
    let error: unknown;
    try {
      error = await (this.#plan.children > 0 ? runChildren : runThreads)(this.#running());
    } catch (thrown) {
      error = thrown;
    }
    const elapsedMs = performance.now() - begin;
    this.#live?.close();
    this.#explainer.explain('close');
    if (this.#plan.write) this.#tellDirty();
    speaker.say({ type: 'parent-exiting' });
    return this.#finish(this.#verdict(error), elapsedMs);
  }

  #running(): Running {
    return {
      plan: this.#plan,
      pageSize: this.#pageSize,
      voice: this.#voice,
      speaker: this.#speaker,
      explainer: this.#explainer,
      switching: this.#switching,
      signal: this.#ending.signal,
      started: (paged) => {
        this.#all.push(paged);
        this.#live?.add(paged);
      },
    };
  }

  #switchTo(next: Strategy): void {
    try {
      this.#switching.switchTo(next, 'key');
    } catch {
      // Memory that cannot be write-protected has no budget; everything goes on as it was.
    }
  }

  #tellDirty(): void {
    const several = this.#plan.children > 1;
    for (const { pager, dirty } of this.#all) {
      this.#speaker.say({ type: 'dirty', child: pager.pid, several, ...dirty.ranges() });
    }
  }

  /** Whatever the end of the children looks like, who asked for it is the cause. */
  #verdict(error: unknown): unknown {
    switch (this.#ended) {
      case 'SIGINT':
        return interruptedError();
      case 'SIGTERM':
        return new CliError(EXIT.terminated, 'ERR_PAGEFAULT_INTERRUPTED', 'ended by SIGTERM');
      case 'q':
      case 'unheard':
        return undefined;
      default:
        return error;
    }
  }

  #finish(error: unknown, elapsedMs: number): ExitCode {
    const { json, quiet } = this.#plan;
    const summary = summaryOf(this.#plan, this.#switching.current, this.#all, elapsedMs);
    if (json) {
      const failed = error === undefined ? {} : { error: { code: codeOf(error), message: reasonOf(error) } };
      this.#speaker.write(JSON.stringify({ ...summary, ...failed }));
      return error === undefined ? EXIT.ok : exitCodeOf(error);
    }
    if (quiet || this.#live !== undefined) this.#speaker.write(sentenceOf(summary));
    return error === undefined ? EXIT.ok : this.#output.error(error);
  }
}
