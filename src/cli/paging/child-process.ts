/** One child of `pagefault paging`: started, given its orders, followed to its end. Main thread. */
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import type { Observe } from '../../guests/events.js';
import type { PagedProcess, WatchStatus } from '../../guests/process.js';
import { spawnPaged } from '../../guests/spawn.js';
import { describeEnd } from '../../kernel/child-status.js';
import type { ChildStatus } from '../../kernel/index.js';
import { CliError, EXIT, exitCodeOfCode } from '../exit.js';
import { DirtyPages } from './dirty.js';
import type { Explainer } from './explain.js';
import { Letters } from './letters.js';
import { type Orders, REPORT_FD, type Report } from './orders.js';
import type { Plan } from './plan.js';
import type { Speaker } from './speaker.js';

const PROGRAM = fileURLToPath(new URL('./child.js', import.meta.url));
/** Many children start at once, and each takes its share of the processors for it. */
const HANDSHAKE_MS = 20_000;
const HANDSHAKE_MS_EACH = 1000;

export interface Starting {
  readonly plan: Plan;
  readonly pageSize: number;
  readonly orders: Orders;
  readonly speaker: Speaker;
  readonly explainer: Explainer;
  readonly watchStatus: WatchStatus | undefined;
  readonly signal: AbortSignal;
  /** What is to be told of this child; undefined: nothing, which is fastest. */
  observeWith(letters: Letters, dirty: DirtyPages): Observe | undefined;
}

export class Child {
  readonly pager: PagedProcess;
  readonly letters: Letters;
  readonly dirty: DirtyPages;
  readonly #report: Promise<Report | undefined>;
  #trouble: Error | undefined;

  private constructor(pager: PagedProcess, letters: Letters, dirty: DirtyPages) {
    this.pager = pager;
    this.letters = letters;
    this.dirty = dirty;
    this.#report = reportOf(pager.child.stdio[REPORT_FD] as Readable);
    pager.on('error', (error: Error) => this.#blame(error));
    pager.on('pageerror', (error: Error) => this.#blame(error));
    pager.on('refused', (error: Error) => this.#blame(error));
  }

  static async start(starting: Starting): Promise<Child> {
    const { plan, pageSize, speaker, explainer, watchStatus, signal } = starting;
    const letters = new Letters(plan.pages, pageSize);
    const dirty = new DirtyPages();
    const onEvent = starting.observeWith(letters, dirty);
    explainer.explain('socketpair', 'spawn', 'pidfd-open', 'hello');
    const pager = await spawnPaged(process.execPath, [PROGRAM], {
      store: letters,
      strategy: plan.strategies[0],
      readahead: plan.readahead,
      resident: plan.resident * pageSize,
      trackWrites: plan.write,
      handshakeTimeoutMs: HANDSHAKE_MS + HANDSHAKE_MS_EACH * plan.children,
      stdio: ['pipe', 'inherit', 'inherit', 'pipe'],
      signal,
      ...(onEvent === undefined ? {} : { onEvent }),
      ...(watchStatus === undefined ? {} : { watchStatus }),
    });
    const child = new Child(pager, letters, dirty);
    speaker.say({ type: 'child-started', child: pager.pid });
    // Only now may it speak.
    pager.child.stdin?.on('error', () => {}); // it has ended before it was told anything
    pager.child.stdin?.end(JSON.stringify(starting.orders));
    return child;
  }

  /** How it ended, and the one sentence about it where it did not end well. */
  async ended(): Promise<{ status: ChildStatus; error: Error | undefined }> {
    const early = await this.pager.ready.then(
      () => undefined,
      (error: Error) => error,
    );
    const status = await this.pager.exited;
    const report = await this.#report;
    if (this.#trouble !== undefined) return { status, error: this.#trouble };
    if (report !== undefined)
      return { status, error: new CliError(exitCodeOfCode(report.code), report.code, report.message) };
    if (early !== undefined) return { status, error: early };
    return { status, error: this.#failure(status) };
  }

  /** The first is the cause of the others. */
  #blame(error: Error): void {
    this.#trouble ??= error;
  }

  #failure(status: ChildStatus): CliError | undefined {
    if (status.state === 'exited' && status.code === 0) return undefined;
    return new CliError(EXIT.failure, 'ERR_PAGEFAULT_CHILD', `child ${this.pager.pid} ${describeEnd(status)}`);
  }
}

async function reportOf(stream: Readable): Promise<Report | undefined> {
  let text = '';
  try {
    for await (const chunk of stream.setEncoding('utf8')) text += chunk;
    return text === '' ? undefined : (JSON.parse(text) as Report);
  } catch {
    return undefined; // it was killed in the middle of it
  }
}
