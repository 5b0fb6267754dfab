/** `pagefault top PORT`: the guests of a server in a terminal, as they are now. Main thread. */
import { setTimeout as sleep } from 'node:timers/promises';
import { reasonOf } from '../errors/reason.js';
import { formatDuration } from '../observe/format.js';
import type { ServerSnapshot } from '../observe/observed.js';
import { renderTop } from '../observe/top.js';
import { guestKey, TOP_SORTS, type TopSort, topRows } from '../observe/top-rows.js';
import { Canvas, type Screen } from './canvas.js';
import type { Arguments, Command } from './command.js';
import { CliError, EXIT, type ExitCode, interruptedError, usageError } from './exit.js';
import { hearKeys, KEY } from './keys.js';
import type { Output } from './output.js';

const TIMEOUT_MS = 5000;
const DEFAULT_INTERVAL_MS = 1000;
const LEAST_INTERVAL_MS = 100;
const KEYS: Readonly<Record<string, TopSort>> = { b: 'blocked', f: 'faults', l: 'latency', n: 'name', p: 'pid' };
const KEY_LINE = 'keys: sort by b blocked, f faults, l latency, n name, p pid; arrows pick; q end';

/** The endpoint of `--metrics PORT`: a port of this machine, or where it was forwarded to. */
function endpointOf(text: string): URL {
  const port = /^\d+$/.test(text);
  const given = port ? `http://127.0.0.1:${text}` : text.includes('://') ? text : `http://${text}`;
  try {
    const url = new URL('/guests', given);
    if (url.protocol === 'http:' && !(port && Number(text) === 0)) return url;
  } catch {
    // Said below.
  }
  throw usageError(`PORT must be the port that a server was given with --metrics, or http://HOST:PORT, not '${text}'`);
}

function unreachable(endpoint: URL, why: string, cause?: unknown): CliError {
  const error = new CliError(
    EXIT.failure,
    'ERR_PAGEFAULT_UNREACHABLE',
    `no guests can be seen at ${endpoint.host}: ${why}`,
    'A server shows its guests when it is started with --metrics PORT.',
  );
  if (cause !== undefined) error.cause = cause;
  return error;
}

async function look(endpoint: URL, signal: AbortSignal): Promise<ServerSnapshot> {
  let text: string;
  try {
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    const response = await fetch(endpoint, { signal: AbortSignal.any([signal, timeout]), redirect: 'error' });
    if (!response.ok) throw unreachable(endpoint, `it answers with status ${response.status}`);
    text = await response.text();
  } catch (error) {
    if (error instanceof CliError || signal.aborted) throw error;
    if (error instanceof DOMException && error.name === 'TimeoutError') {
      throw unreachable(endpoint, `there is no answer within ${TIMEOUT_MS / 1000} s`);
    }
    const { cause = error } = error as Error;
    const refused = (cause as NodeJS.ErrnoException).code === 'ECONNREFUSED';
    throw unreachable(endpoint, refused ? 'nobody listens there' : reasonOf(cause));
  }
  const snapshot = parse(text);
  if (snapshot === undefined)
    throw unreachable(endpoint, 'what answers there is no server of this version of pagefault');
  return snapshot;
}

/** Undefined: what came is something else. */
function parse(text: string): ServerSnapshot | undefined {
  try {
    const { version, guests } = JSON.parse(text) as Partial<ServerSnapshot>;
    const right =
      version === 1 && Array.isArray(guests) && guests.every(({ numbers }) => Array.isArray(numbers.histogram));
    return right ? (JSON.parse(text) as ServerSnapshot) : undefined;
  } catch {
    return undefined;
  }
}

type Ending = 'q' | 'SIGINT' | 'SIGTERM';

/** Draws until it is ended. A server that does not answer any more is waited for: what it said last stays. */
class Watching {
  readonly #endpoint: URL;
  readonly #canvas: Canvas;
  readonly #intervalMs: number;
  readonly #stop = new AbortController();
  #sort: TopSort;
  #selected: string | undefined;
  #before: ServerSnapshot | undefined;
  #now: ServerSnapshot;
  #trouble: string | undefined;
  #ended: Ending = 'q';

  constructor(endpoint: URL, first: ServerSnapshot, options: { screen: Screen; intervalMs: number; sort: TopSort }) {
    this.#endpoint = endpoint;
    this.#now = first;
    this.#canvas = new Canvas(options.screen);
    this.#intervalMs = options.intervalMs;
    this.#sort = options.sort;
  }

  async toEnd(interrupted: AbortSignal): Promise<Ending> {
    const terminate = (): void => this.#end('SIGTERM');
    const interrupt = (): void => this.#end('SIGINT');
    process.once('SIGTERM', terminate);
    interrupted.addEventListener('abort', interrupt, { once: true });
    const stopHearing = hearKeys({ key: (key) => this.#key(key), interrupt });
    try {
      await this.#draw();
    } finally {
      stopHearing();
      this.#canvas.close();
      process.off('SIGTERM', terminate);
      interrupted.removeEventListener('abort', interrupt);
    }
    return this.#ended;
  }

  async #draw(): Promise<void> {
    const { signal } = this.#stop;
    while (!signal.aborted) {
      this.#paint();
      await sleep(this.#intervalMs, undefined, { signal }).catch(() => {});
      if (!signal.aborted) await this.#look();
    }
  }

  async #look(): Promise<void> {
    try {
      const now = await look(this.#endpoint, this.#stop.signal);
      this.#before = this.#now;
      this.#now = now;
      this.#trouble = undefined;
    } catch {
      const silence = formatDuration(Math.max(0, Date.now() - this.#now.at) * 1e6);
      this.#trouble = `no answer for ${silence}: these are the last numbers; q end`;
    }
  }

  #paint(): void {
    const { terminal, rows } = this.#canvas;
    const scene = {
      source: this.#endpoint.host,
      now: this.#now,
      before: this.#before,
      sort: this.#sort,
      rows,
      selected: this.#selected,
    };
    this.#canvas.draw(renderTop({ ...scene, trouble: this.#trouble, keys: KEY_LINE }, terminal));
  }

  #key(key: string): void {
    const sort = Object.hasOwn(KEYS, key) ? KEYS[key] : undefined;
    if (key === 'q') this.#end('q');
    else if (sort !== undefined) this.#sort = sort;
    else if (key === KEY.down || key === 'j') this.#select(1);
    else if (key === KEY.up || key === 'k') this.#select(-1);
    else return;
    this.#paint();
  }

  /** The guest that many lines below the one that is selected. */
  #select(lines: number): void {
    const keys = topRows(this.#now, this.#before, this.#sort).map(({ guest }) => guestKey(guest));
    const at = this.#selected === undefined ? -1 : keys.indexOf(this.#selected);
    this.#selected = keys[Math.max(0, Math.min(keys.length - 1, at + lines))];
  }

  #end(by: Ending): void {
    this.#ended = by;
    this.#stop.abort();
  }
}

async function run(args: Arguments, output: Output, signal: AbortSignal): Promise<ExitCode> {
  const endpoint = endpointOf(args.positionals[0] ?? '');
  const sort = args.choice('sort', TOP_SORTS) ?? 'blocked';
  const intervalMs = args.count('interval', LEAST_INTERVAL_MS) ?? DEFAULT_INTERVAL_MS;
  const now = await look(endpoint, signal);
  if (args.flag('once') || output.json || !process.stdout.isTTY) {
    output.result(now, () => renderTop({ source: endpoint.host, now, sort }, output.terminal));
    return EXIT.ok;
  }
  const screen = process.stdout as Screen;
  const ended = await new Watching(endpoint, now, { screen, intervalMs, sort }).toEnd(signal);
  if (ended === 'SIGINT') throw interruptedError();
  if (ended === 'SIGTERM') throw new CliError(EXIT.terminated, 'ERR_PAGEFAULT_INTERRUPTED', 'ended by SIGTERM');
  return EXIT.ok;
}

export const top: Command = {
  name: 'top',
  summary: 'show the guests of a server as they are now: faults, latency, who waits',
  positionals: ['PORT'],
  helpWhenBare: true,
  options: {
    once: { help: 'one table, and the end; so it is where stdout is no terminal' },
    interval: { value: 'MS', help: `time between two looks; default ${DEFAULT_INTERVAL_MS}` },
    sort: { value: 'NAME', help: 'blocked (the default), faults, latency, name or pid' },
    json: { help: 'all numbers of this moment as one JSON document' },
  },
  examples: [
    { line: 'pagefault top 9090', what: 'of a server that was started with --metrics 9090, until q' },
    { line: 'pagefault top 9090 --json', what: 'the numbers of this moment, for a script' },
  ],
  run,
};
