#!/usr/bin/env node
/** The command `pagefault`: finds the command, parses its arguments, runs it, sets the exit code. Main thread. */
import { readFileSync } from 'node:fs';
import { nearest } from '../options/keys.js';
import { type Command, parseCommand } from './command.js';
import { EXIT, type ExitCode, usageError } from './exit.js';
import { commandHelp, generalHelp } from './help.js';
import { Output } from './output.js';

/** Loaded when they are asked for: starting should not take longer for each command there is. */
const COMMANDS: Readonly<Record<string, () => Promise<Command>>> = {
  doctor: async () => (await import('./doctor.js')).doctor,
  map: async () => (await import('./map-file.js')).mapFile,
  paging: async () => (await import('./paging/index.js')).paging,
  top: async () => (await import('./top.js')).top,
  serve: async () => (await import('./serve/index.js')).serve,
  workingset: async () => (await import('./working-set.js')).workingSet,
};

async function allCommands(): Promise<Command[]> {
  return await Promise.all(Object.values(COMMANDS).map((load) => load()));
}

function version(): string {
  const manifest = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(manifest) as { version: string }).version;
}

function print(text: string): ExitCode {
  process.stdout.write(`${text}\n`);
  return EXIT.ok;
}

async function findCommand(name: string): Promise<Command> {
  const names = Object.keys(COMMANDS);
  const load = names.includes(name) ? COMMANDS[name] : undefined;
  if (load !== undefined) return await load();
  const meant = nearest(name, [...names, '--help', '--version']);
  const hint = meant === undefined ? `Commands are ${listed(names)}; see pagefault --help.` : `Did you mean ${meant}?`;
  throw usageError(name.startsWith('-') ? `there is no option ${name}` : `there is no command '${name}'`, hint);
}

/** The part of a command that the first of its arguments names, and the others. A command without parts comes back with all of them. */
async function findPart(command: Command, rest: readonly string[]): Promise<[Command, readonly string[]]> {
  const { name, parts } = command;
  const [first, ...others] = rest;
  if (parts === undefined || first === undefined || first === '--help' || first === '-h') return [command, rest];
  const names = Object.keys(parts);
  const load = names.includes(first) ? parts[first] : undefined;
  if (load !== undefined) return [await load(), others];
  const meant = nearest(first, names);
  const hint =
    meant === undefined
      ? `There ${names.length > 1 ? 'are' : 'is'} ${names.join(', ')}; see pagefault ${name} --help.`
      : `Did you mean ${name} ${meant}?`;
  throw usageError(first.startsWith('-') ? `${name} has no option ${first}` : `${name} has no part '${first}'`, hint);
}

/** `a, b and c`. */
function listed(names: readonly string[]): string {
  return `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`;
}

async function dispatch(argv: readonly string[], output: Output, signal: AbortSignal): Promise<ExitCode> {
  const [name, ...rest] = argv;
  if (name === undefined) {
    process.stderr.write(`${generalHelp(await allCommands())}\n`);
    return EXIT.usage;
  }
  if (name === '--help' || name === '-h' || (name === 'help' && rest.length === 0)) {
    return print(generalHelp(await allCommands()));
  }
  if (name === '--version' || name === '-v') return print(version());
  if (name === 'help') {
    const [wanted] = await findPart(await findCommand(rest[0] ?? ''), rest.slice(1));
    return print(commandHelp(wanted));
  }
  const [command, given] = await findPart(await findCommand(name), rest);
  if (given.length === 0 && command.helpWhenBare === true) {
    process.stderr.write(`${commandHelp(command)}\n`);
    return EXIT.usage;
  }
  const args = parseCommand(command, given);
  if (args.flag('help')) return print(commandHelp(command));
  return await command.run(args, output, signal);
}

/** What asks for JSON or silence must hold also for an error in the rest of the line. */
function outputFor(argv: readonly string[]): Output {
  const given = argv.includes('--') ? argv.slice(0, argv.indexOf('--')) : argv;
  return new Output({ json: given.includes('--json'), quiet: given.includes('--quiet') || given.includes('-q') });
}

async function main(): Promise<void> {
  const argv = process.argv.slice(2);
  const output = outputFor(argv);
  const interrupted = new AbortController();
  process.once('SIGINT', () => interrupted.abort());
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    // The reader has seen enough (`pagefault map … | head`).
    process.exit(error.code === 'EPIPE' ? EXIT.ok : EXIT.failure);
  });
  try {
    process.exitCode = await dispatch(argv, output, interrupted.signal);
  } catch (error) {
    process.exitCode = output.error(error);
  }
}

await main();
