/** `pagefault serve pages`: a page server from the command line. Main thread. */
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type PageClientInfo, type PageServer, servePages } from '../../guests/index.js';
import { formatBytes, formatCount, formatQuantity, type Observation } from '../../observe/index.js';
import { parseSize } from '../../options/sizes.js';
import { custom, file, type StoreRef } from '../../stores/index.js';
import type { Arguments, Command } from '../command.js';
import { EXIT, type ExitCode, usageError } from '../exit.js';
import { OBSERVING_OPTIONS, observing, observingOf, speaksTo } from '../observing.js';
import type { Output } from '../output.js';

interface Plan {
  readonly socket: string;
  readonly store: StoreRef;
  readonly what: string;
  readonly options: { base: bigint; mode?: number; maxPageSize?: number; maxClients?: number };
}

function required(args: Arguments, name: string, value: string): string {
  const given = args.text(name);
  if (given === undefined)
    throw usageError(`serve pages needs --${name} ${value}`, 'See pagefault serve pages --help.');
  return given;
}

/** An address: 0x80000000, or decimal. */
function addressOf(name: string, text: string): bigint {
  if (/^(0x[\da-f_]+|\d[\d_]*)$/i.test(text)) return BigInt(text.replaceAll('_', ''));
  throw usageError(`--${name} must be an address such as 0x80000000, not '${text}'`);
}

function modeOf(text: string): number {
  if (/^0?[0-7]{3}$/.test(text)) return Number.parseInt(text, 8);
  throw usageError(`--mode must be three octal digits, such as 660, not '${text}'`);
}

function planOf(args: Arguments): Plan {
  const socket = required(args, 'socket', 'PATH');
  const memory = resolve(required(args, 'memory', 'FILE'));
  const module = args.text('store');
  const mode = args.text('mode');
  const maxPageSize = args.text('max-page-size');
  const maxClients = args.count('max-clients', 1);
  return {
    socket,
    store: module === undefined ? file(memory) : custom(pathToFileURL(resolve(module)), { path: memory }),
    what: module === undefined ? memory : `${memory} by ${module}`,
    options: {
      base: addressOf('base', args.text('base') ?? '0'),
      ...(mode === undefined ? {} : { mode: modeOf(mode) }),
      ...(maxPageSize === undefined ? {} : { maxPageSize: parseSize('--max-page-size', maxPageSize) }),
      ...(maxClients === undefined ? {} : { maxClients }),
    },
  };
}

/** Lines for people, or an object a line with `--json`. */
class Teller {
  readonly #json: boolean;
  readonly #quiet: boolean;
  readonly #stream: NodeJS.WriteStream;

  constructor(output: Output, quiet: boolean, stream: NodeJS.WriteStream) {
    this.#json = output.json;
    this.#quiet = quiet;
    this.#stream = stream;
  }

  /** What happens along the way. */
  tell(event: Readonly<Record<string, unknown>>, line: string): void {
    if (!this.#quiet) this.last(event, line);
  }

  last(event: Readonly<Record<string, unknown>>, line: string): void {
    this.#stream.write(`${this.#json ? JSON.stringify(event) : line}\n`);
  }
}

function follow(server: PageServer, teller: Teller): void {
  const who = ({ id, peer }: PageClientInfo): { client: number; pid: number } => ({ client: id, pid: peer.pid });
  const said = ({ id, peer }: PageClientInfo): string => `client ${id} (process ${peer.pid})`;
  server.on('client', (client) => teller.tell({ type: 'client', ...who(client) }, `${said(client)} has connected`));
  server.on('gone', (client) => teller.tell({ type: 'gone', ...who(client) }, `${said(client)} is gone`));
  server.on('refused', (client, why) => {
    teller.tell({ type: 'refused', ...who(client), why }, `${said(client)} was refused: ${why}`);
  });
  server.on('pageerror', (error, { client, address }) => {
    const event = { type: 'pageerror', ...who(client), address: `0x${address.toString(16)}`, message: error.message };
    teller.tell(event, `${said(client)} gets no page: ${error.message}`);
  });
}

/** Resolves when the command is to end. */
function ended(signal: AbortSignal): Promise<'SIGINT' | 'SIGTERM'> {
  return new Promise((settle) => {
    if (signal.aborted) settle('SIGINT');
    signal.addEventListener('abort', () => settle('SIGINT'), { once: true });
    process.once('SIGTERM', () => settle('SIGTERM'));
  });
}

async function run(args: Arguments, output: Output, signal: AbortSignal): Promise<ExitCode> {
  const plan = planOf(args);
  const watched = observingOf(args);
  const teller = new Teller(output, args.flag('quiet'), speaksTo(watched));
  const ending = ended(signal); // before the socket is there: who sees it may end us at once
  const server = await servePages(plan.socket, plan.store, plan.options);
  let observation: Observation | undefined;
  try {
    observation = await observing(server, watched);
    follow(server, teller);
    const base = `0x${server.base.toString(16)}`;
    teller.tell(
      { type: 'listening', socket: server.path, memory: plan.what, base },
      `serving ${plan.what} at ${server.path}, from address ${base} on`,
    );
    const how = await ending;
    await server.close();
    summarize(server, teller);
    return how === 'SIGINT' ? EXIT.interrupted : EXIT.terminated; // its ordinary end: no error, but the shell is told
  } finally {
    await server.close();
    await observation?.close();
  }
}

function summarize(server: PageServer, teller: Teller): void {
  const stats = server.stats();
  const { pages, bytes, connections, refused, failures } = stats;
  const troubles =
    refused + failures === 0
      ? ''
      : `, ${formatCount(refused)} refused, ${formatQuantity(failures, 'page')} not to be had`;
  teller.last(
    { type: 'summary', ...stats },
    `${formatQuantity(pages, 'page')} (${formatBytes(bytes)}) for ${formatQuantity(connections, 'client')}${troubles}`,
  );
}

export const servePagesCommand: Command = {
  name: 'serve pages',
  summary: 'serve a memory file to whoever asks for its pages, at a Unix socket',
  positionals: [],
  helpWhenBare: true,
  options: {
    socket: { value: 'PATH', help: 'where to listen; what a dead process of yours left there is replaced' },
    memory: { value: 'FILE', help: 'the bytes' },
    base: { value: 'ADDRESS', help: 'the address of its first byte, such as 0x80000000; default 0' },
    mode: { value: 'OCTAL', help: 'permissions of the socket: who may write to it may read FILE; default 600' },
    'max-page-size': { value: 'SIZE', help: 'the largest page that is answered; default 2MiB' },
    'max-clients': { value: 'N', help: 'clients at once; more wait; default 1024' },
    store: { value: 'MODULE', help: 'a store module of yours, opened with { path: FILE }, instead of the file itself' },
    ...OBSERVING_OPTIONS,
    json: { help: 'a JSON object a line' },
    quiet: { short: 'q', help: 'only one line at the end' },
  },
  examples: [
    {
      line: 'pagefault serve pages --socket /run/pages.sock --memory vm.mem --base 0x80000000',
      what: 'until it is ended by SIGINT or SIGTERM; each client is a line',
    },
  ],
  run,
};
