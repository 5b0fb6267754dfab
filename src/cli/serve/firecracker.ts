/** `pagefault serve firecracker`: guest memory for VMs that are restored with Firecracker's Uffd backend. Main thread. */

import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { reasonOf } from '../../errors/reason.js';
import type { Guest } from '../../guests/engine/index.js';
import {
  type FirecrackerServer,
  type ServeFirecrackerOptions,
  serveFirecracker,
} from '../../guests/firecracker/index.js';
import { formatBytes, formatDuration, formatQuantity } from '../../observe/index.js';
import { custom } from '../../stores/index.js';
import type { Arguments, Command } from '../command.js';
import { codeOf, EXIT, type ExitCode, usageError } from '../exit.js';
import { OBSERVING_OPTIONS, observing, observingOf, speaksTo } from '../observing.js';
import type { Output } from '../output.js';

type Ending = 'SIGINT' | 'SIGTERM' | 'once' | 'left';

function memoryOf(args: Arguments): ServeFirecrackerOptions['memory'] {
  const memory = args.text('memory');
  const module = args.text('store');
  if (memory === undefined && module === undefined) {
    throw usageError(
      'serve firecracker needs --memory FILE, or --store MODULE',
      'See pagefault serve firecracker --help.',
    );
  }
  const layers =
    args
      .text('diff')
      ?.split(',')
      .map((path) => resolve(path)) ?? [];
  if (module === undefined) return [resolve(memory ?? ''), ...layers];
  if (layers.length > 0) throw usageError('--diff is of memory files, and there is a store: --store');
  return custom(pathToFileURL(resolve(module)), { path: memory === undefined ? undefined : resolve(memory) });
}

function ownerOf(args: Arguments): { uid: number; gid: number } | undefined {
  const text = args.text('owner');
  if (text === undefined) return undefined;
  const [, uid, gid] = /^(\d+):(\d+)$/.exec(text) ?? [];
  if (uid === undefined || gid === undefined)
    throw usageError(`--owner must be UID:GID, such as 1000:1000, not '${text}'`);
  return { uid: Number(uid), gid: Number(gid) };
}

function modeOf(args: Arguments): number | undefined {
  const text = args.text('mode');
  if (text === undefined) return undefined;
  if (!/^0?[0-7]{3}$/.test(text)) throw usageError(`--mode must be three octal digits, such as 660, not '${text}'`);
  return Number.parseInt(text, 8);
}

function superviseOf(args: Arguments): ServeFirecrackerOptions['supervise'] {
  const path = args.text('supervise');
  const deadlineMs = args.count('deadline', 1);
  const takeOver = args.flag('take-over');
  if (path !== undefined) return { path, takeOver, ...(deadlineMs === undefined ? {} : { deadlineMs }) };
  if (deadlineMs !== undefined || takeOver) {
    throw usageError('--deadline and --take-over need --supervise PATH', 'See pagefault serve firecracker --help.');
  }
  return undefined;
}

function optionsOf(args: Arguments): ServeFirecrackerOptions {
  const socket = args.text('socket');
  if (socket === undefined) {
    throw usageError('serve firecracker needs --socket PATH', 'See pagefault serve firecracker --help.');
  }
  const given = {
    onFailure: args.choice('on-failure', ['kill', 'park'] as const),
    faultTimeoutMs: args.count('fault-timeout', 1),
    handshakeTimeoutMs: args.count('handshake-timeout', 1),
    record: args.text('record'),
    replay: args.text('replay'),
    cap: args.text('cap'),
    threads: args.count('threads', 1),
    mode: modeOf(args),
    owner: ownerOf(args),
    supervise: superviseOf(args),
  };
  const asked = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
  return { socket, memory: memoryOf(args), ...asked } as ServeFirecrackerOptions;
}

/** A line for each thing that happens: a sentence, or with `--json` an object. */
class Reporter {
  readonly #json: boolean;
  readonly #quiet: boolean;
  readonly #stream: NodeJS.WriteStream;
  readonly #began = new Map<Guest, number>();
  failures = 0;

  constructor(output: Output, quiet: boolean, stream: NodeJS.WriteStream) {
    this.#json = output.json;
    this.#quiet = quiet;
    this.#stream = stream;
  }

  follow(server: FirecrackerServer): void {
    const { socket, snapshot } = server;
    const size = formatBytes(snapshot.byteLength);
    this.#say(`listening at ${socket}: a snapshot of ${size}`, {
      type: 'listening',
      socket,
      byteLength: snapshot.byteLength,
    });
    server.on('guest', (guest) => this.#came(guest));
    server.on('gone', (guest) => this.#went(guest));
    server.on('refused', (error) => this.#complain('refused', error));
    server.on('warning', (error) => this.#complain('warning', error));
    server.on('pageerror', (error, guest, where) => {
      this.failures += 1;
      this.#complain('pageerror', error, { pid: guest.pid, offset: where.offset });
    });
  }

  #came(guest: Guest): void {
    this.#began.set(guest, performance.now());
    const { pid, pageSize, regions } = guest;
    const byteLength = regions.reduce((sum, region) => sum + region.byteLength, 0);
    const what = `${formatQuantity(regions.length, 'region')}, ${formatBytes(byteLength)} in pages of ${formatBytes(pageSize)}`;
    this.#say(`VM ${pid}: ${what}`, { type: 'guest', pid, regions: regions.length, byteLength, pageSize });
  }

  #went(guest: Guest): void {
    const lastedMs = performance.now() - (this.#began.get(guest) ?? 0);
    this.#began.delete(guest);
    const { pid } = guest;
    const { histogram: _histogram, threads: _threads, ...numbers } = guest.numbers();
    const { faults, demand, prefetched, zero, removed } = numbers;
    const counts = [`${formatQuantity(faults, 'fault')}`, `${formatQuantity(demand, 'page')} on demand`];
    if (prefetched > 0) counts.push(`${formatQuantity(prefetched, 'page')} ahead`);
    if (zero > 0) counts.push(`${formatQuantity(zero, 'page')} of zeroes`);
    if (removed > 0) counts.push(`${formatQuantity(removed, 'page')} given back`);
    const lasted = formatDuration(lastedMs * 1e6);
    this.#say(`VM ${pid}: gone after ${lasted}: ${counts.join(', ')}`, { type: 'gone', pid, lastedMs, ...numbers });
  }

  #say(text: string, document: Readonly<Record<string, unknown>>): void {
    if (!this.#quiet) this.#stream.write(`${this.#json ? JSON.stringify(document) : text}\n`);
  }

  #complain(type: string, error: Error, more: Readonly<Record<string, unknown>> = {}): void {
    const causes = error.cause === undefined ? '' : ` (${reasonOf(error.cause)})`;
    if (this.#json && !this.#quiet) this.#say('', { type, code: codeOf(error), message: error.message, ...more });
    else process.stderr.write(`pagefault: ${error.message}${causes}\n`);
  }
}

/** Until a signal, or until the last VM has gone. */
function ending(server: FirecrackerServer, once: boolean, signal: AbortSignal): Promise<Ending> {
  return new Promise((end) => {
    signal.addEventListener('abort', () => end('SIGINT'), { once: true });
    if (signal.aborted) end('SIGINT');
    server.once('left', () => end('left'));
    if (!once) return;
    server.on('gone', () => {
      if (server.guests.size === 0) end('once');
    });
  });
}

async function run(args: Arguments, output: Output, signal: AbortSignal): Promise<ExitCode> {
  const options = optionsOf(args);
  const watched = observingOf(args);
  const terminated = new Promise<Ending>((end) => process.once('SIGTERM', () => end('SIGTERM'))); // before anybody sees the socket
  let served: FirecrackerServer | undefined;
  process.on('SIGHUP', () => {
    for (const guest of served?.guests ?? []) guest.retry(); // none before, and none that has ended: but the signal never ends us
  });
  const server = await serveFirecracker(options);
  served = server;
  const save = (): void => void server.saveWorkingSet().catch((error) => server.emit('warning', error));
  process.on('SIGUSR2', save);
  // A VM may come and go while metrics are being made ready.
  const over = ending(server, args.flag('once'), signal);
  const reporter = new Reporter(output, args.flag('quiet'), speaksTo(watched));
  reporter.follow(server);
  try {
    const observation = await observing(server, watched);
    const ended = await Promise.race([terminated, over]);
    // Whoever ends a daemon that is supervised starts the next one, or lets the deadline pass.
    if (ended === 'SIGTERM' && options.supervise !== undefined) await server.leave();
    else await server.close();
    await observation?.close();
    if (ended === 'left') return EXIT.ok;
    if (ended === 'once') return reporter.failures > 0 ? EXIT.failure : EXIT.ok;
    return ended === 'SIGINT' ? EXIT.interrupted : EXIT.terminated; // its ordinary end: no error, but the shell is told
  } finally {
    process.off('SIGUSR2', save);
    await server.close();
  }
}

export const serveFirecrackerCommand: Command = {
  name: 'serve firecracker',
  summary: 'memory for Firecracker VMs, from a snapshot, a page at a time',
  positionals: [],
  helpWhenBare: true,
  options: {
    socket: { value: 'PATH', help: 'the Unix socket to listen at: backend_path of PUT /snapshot/load' },
    memory: { value: 'FILE', help: 'the memory file of the snapshot' },
    diff: {
      value: 'FILE[,FILE...]',
      help: 'memory files of diff snapshots on top of it, the oldest first; their holes show what is below',
    },
    store: { value: 'MODULE', help: 'a store module of yours in place of the file; it is opened with { path: FILE }' },
    'on-failure': {
      value: 'WHAT',
      help: 'when a page cannot be had: kill the VM (the default), or park: its thread waits. SIGHUP tries all such pages again',
    },
    record: { value: 'FILE', help: 'keep what the VMs touch, in order: their working set. SIGUSR2 saves it at once' },
    replay: { value: 'FILE', help: 'load such a working set ahead, behind what the VM asks for' },
    cap: { value: 'SIZE', help: 'as much of a working set at most; default 1GiB' },
    once: { help: 'end when the last VM has gone' },
    mode: { value: 'OCTAL', help: 'permissions of the socket; default 600' },
    owner: { value: 'UID:GID', help: 'whose socket it is to be: the --uid and --gid of the jailer' },
    supervise: {
      value: 'PATH',
      help: 'a supervisor keeps the VMs when this daemon crashes or ends by SIGTERM, until the next one comes: its socket',
    },
    deadline: { value: 'MS', help: 'how long VMs wait for the next daemon before they are killed; default 30000' },
    'take-over': { help: 'ask the daemon that is there to leave, and go on with its VMs: an upgrade' },
    threads: { value: 'N', help: 'threads that serve' },
    'fault-timeout': { value: 'MS', help: 'how long a page may take; default 30000' },
    'handshake-timeout': { value: 'MS', help: 'how long a VM may take to hand over its memory; default 10000' },
    ...OBSERVING_OPTIONS,
    json: { help: 'a JSON object a line' },
    quiet: { short: 'q', help: 'only what goes wrong' },
  },
  examples: [
    {
      line: 'pagefault serve firecracker --socket /run/vm.sock --memory vm.mem',
      what: 'any number of VMs from one snapshot',
    },
    {
      line: 'pagefault serve firecracker --socket /run/vm.sock --memory base.mem --diff monday.mem,tuesday.mem',
      what: 'a full snapshot and two diffs, as they are',
    },
    {
      line: 'pagefault serve firecracker --socket /run/vm.sock --memory vm.mem --record vm.ws --replay vm.ws',
      what: 'each VM learns from those before it',
    },
  ],
  run,
};
