/**
 * `pagefault map FILE`: reads a file, or a store of the user's, through page faults under a budget, verifies what came
 * out, and shows what the segment did. Main thread.
 */
import { closeSync, openSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type MapOptions, map, type Segment } from '../index.js';
import { formatBytes, formatDuration, formatQuantity, renderSegment, type Terminal } from '../observe/index.js';
import { parseSize } from '../options/sizes.js';
import { custom, file, type StoreRef } from '../stores/index.js';
import type { Arguments, Command } from './command.js';
import { CliError, EXIT, type ExitCode } from './exit.js';
import type { Output } from './output.js';
import { PATTERNS, type Pattern } from './patterns.js';
import { type Reading, readAll, readPages, type Task } from './verify.js';

const DEFAULT_TOUCHES = 10_000;
const BACKENDS = ['auto', 'signal', 'mprotect', 'memfd', 'thread'] as const;

interface Plan {
  path: string;
  store: StoreRef;
  storeName: string;
  options: MapOptions;
  pattern: Pattern;
  touches: number;
}

function planOf(args: Arguments): Plan {
  const path = resolve(args.positionals[0] ?? '');
  const module = args.text('store');
  const backend = args.choice('backend', BACKENDS);
  const resident = args.text('resident');
  const pageSize = args.text('page-size');
  const readahead = args.text('readahead');
  const options: MapOptions = {
    ...(backend === undefined ? {} : { backend }),
    ...(resident === undefined ? {} : { resident: parseSize('--resident', resident) }),
    ...(pageSize === undefined ? {} : { pageSize: parseSize('--page-size', pageSize) }),
    ...(readahead === undefined ? {} : { readahead: readaheadOf(readahead) }),
  };
  return {
    path,
    store: module === undefined ? file(path) : custom(pathToFileURL(resolve(module)), { path }),
    storeName: module === undefined ? 'file' : `custom(${module})`,
    options,
    pattern: args.choice('pattern', PATTERNS) ?? 'seq',
    touches: args.count('touches', 1) ?? DEFAULT_TOUCHES,
  };
}

function readaheadOf(text: string): number | 'auto' {
  return text === 'auto' ? 'auto' : parseSize('--readahead', text);
}

async function read(plan: Plan, task: Task): Promise<Reading> {
  if (plan.pattern === 'seq') return await readAll(task);
  const fd = openSync(plan.path, 'r');
  try {
    return await readPages({ ...task, fd, pattern: plan.pattern, touches: plan.touches });
  } finally {
    closeSync(fd);
  }
}

function toDocument(plan: Plan, segment: Segment, reading: Reading): Record<string, unknown> {
  return {
    file: plan.path,
    store: plan.storeName,
    byteLength: segment.byteLength,
    pageSize: segment.pageSize,
    backend: segment.backend,
    backendReason: segment.backendReason,
    resident: plan.options.resident ?? null,
    ...reading,
    stats: segment.stats(),
  };
}

function render(plan: Plan, segment: Segment, reading: Reading, terminal: Terminal): string[] {
  const row = (label: string, value: string): string => `${terminal.paint('bold', label.padEnd(9))} ${value}`;
  const speed = formatBytes(reading.bytesRead / (reading.elapsedMs / 1000));
  const elapsed = formatDuration(reading.elapsedMs * 1e6);
  const limit = plan.options.resident;
  return [
    row('store', `${plan.storeName} ${plan.path}, ${formatBytes(segment.byteLength)}`),
    row('backend', `${segment.backend}: ${segment.backendReason}`),
    row('budget', limit === undefined ? 'none' : `${formatBytes(Number(limit))} in memory at once`),
    row('read', `${formatQuantity(reading.touches, 'page')} (${reading.pattern}) in ${elapsed}, ${speed}/s`),
    row('verified', verdict(reading, terminal)),
    '',
    ...renderSegment(segment, terminal),
  ];
}

function verdict(reading: Reading, terminal: Terminal): string {
  if (!reading.matches) return terminal.paint('red', 'no');
  const how = reading.sha256 === undefined ? 'each page equals the file' : `SHA-256 ${reading.sha256.segment}`;
  return terminal.paint('green', how);
}

function mismatch(reading: Reading): CliError {
  const where =
    reading.firstDifference === undefined
      ? `SHA-256 is ${reading.sha256?.segment}, the file's is ${reading.sha256?.file}`
      : `first at the page of offset ${reading.firstDifference}`;
  return new CliError(EXIT.mismatch, 'ERR_PAGEFAULT_MISMATCH', `what was read differs from the file: ${where}`);
}

async function run(args: Arguments, output: Output, signal: AbortSignal): Promise<ExitCode> {
  const plan = planOf(args);
  const segment = await map(plan.store, { ...plan.options, signal });
  const progress = output.progress();
  try {
    const reading = await read(plan, { segment, path: plan.path, progress, signal });
    progress.clear();
    const document = toDocument(plan, segment, reading);
    const wrong = reading.matches ? undefined : mismatch(reading);
    if (wrong !== undefined) document['error'] = { code: wrong.code, message: wrong.message };
    output.result(document, () => render(plan, segment, reading, output.terminal));
    if (wrong !== undefined && !output.json) output.error(wrong);
    return wrong?.exitCode ?? EXIT.ok;
  } finally {
    progress.clear();
    await segment.close();
  }
}

export const mapFile: Command = {
  name: 'map',
  summary: 'read FILE through page faults, verify it, and show what happened',
  positionals: ['FILE'],
  options: {
    resident: { value: 'SIZE', help: 'how much may be in memory at once, such as 64MiB; default no limit' },
    'page-size': { value: 'SIZE', help: "a power of two up to 2MiB; default the store's, else the system's" },
    pattern: { value: 'NAME', help: 'seq (all of it, the default), random or zipf' },
    touches: { value: 'N', help: `pages to touch with random and zipf; default ${DEFAULT_TOUCHES}` },
    readahead: { value: 'SIZE', help: 'auto (the default), 0, or a fixed size' },
    backend: { value: 'NAME', help: 'auto (the default), signal, mprotect or memfd' },
    store: { value: 'MODULE', help: 'a store module of yours, opened with { path: FILE }, instead of the file itself' },
  },
  examples: [
    { line: 'pagefault map data.bin --resident 64MiB', what: 'everything in order, at most 64 MiB of it in memory' },
    {
      line: 'pagefault map data.bin --resident 64MiB --pattern zipf --touches 100000',
      what: 'single pages, few of them often, as a cache sees it',
    },
    { line: 'pagefault map data.bin --store ./my-store.js --json', what: 'through a store of yours; result as JSON' },
  ],
  run,
};
