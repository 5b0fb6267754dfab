/**
 * What a command is: its options as a table, from which its arguments are parsed and its help is written. Main thread.
 */
import { parseArgs } from 'node:util';
import { nearest } from '../options/keys.js';
import { type ExitCode, usageError } from './exit.js';
import type { Output } from './output.js';

/** An option of a command. One without `value` is a flag. */
export interface Option {
  /** What stands for its value in the help, such as SIZE. */
  readonly value?: string;
  readonly short?: string;
  readonly help: string;
}

export interface Command {
  readonly name: string;
  readonly summary: string;
  /** Names of the positional arguments, all of them required. */
  readonly positionals: readonly string[];
  readonly options: Readonly<Record<string, Option>>;
  /** Without any argument the help is shown, on stderr, in place of an error. */
  readonly helpWhenBare?: boolean;
  /** What its first argument chooses among, by name. Each is called by both names: `serve pages`. It has no arguments of its own then. */
  readonly parts?: Readonly<Record<string, () => Promise<Command>>>;
  /** Shown first in the help. */
  readonly examples: ReadonlyArray<{ readonly line: string; readonly what: string }>;
  run(args: Arguments, output: Output, signal: AbortSignal): Promise<ExitCode>;
}

/** Options of every command, which it may word in its own way. */
export const COMMON_OPTIONS: Readonly<Record<string, Option>> = {
  json: { help: 'one JSON document on stdout instead of text' },
  quiet: { short: 'q', help: 'no progress on stderr' },
  help: { short: 'h', help: 'this text' },
};

/** All options of a command: its own first. */
export function optionsOf(command: Command): Readonly<Record<string, Option>> {
  const own = Object.entries(command.options).filter(([name]) => !Object.hasOwn(COMMON_OPTIONS, name));
  return { ...Object.fromEntries(own), ...COMMON_OPTIONS, ...command.options };
}

/** The parsed arguments of a command. */
export class Arguments {
  readonly positionals: readonly string[];
  readonly #values: ReadonlyMap<string, string | true>;

  constructor(positionals: readonly string[], values: ReadonlyMap<string, string | true>) {
    this.positionals = positionals;
    this.#values = values;
  }

  flag(name: string): boolean {
    return this.#values.has(name);
  }

  text(name: string): string | undefined {
    const value = this.#values.get(name);
    return value === true ? undefined : value;
  }

  /** The option's value if it is one of these words. */
  choice<Word extends string>(name: string, words: readonly Word[]): Word | undefined {
    const value = this.text(name);
    if (value === undefined) return undefined;
    const word = words.find((known) => known === value);
    if (word !== undefined) return word;
    const meant = nearest(value, words);
    throw usageError(
      `--${name} must be one of ${words.join(', ')}, not '${value}'`,
      meant === undefined ? undefined : `Did you mean --${name} ${meant}?`,
    );
  }

  /** The option's value as a whole number of at least `least`. */
  count(name: string, least: number): number | undefined {
    const value = this.text(name);
    if (value === undefined) return undefined;
    const number = /^\d[\d_,]*$/.test(value) ? Number(value.replace(/[_,]/g, '')) : Number.NaN;
    if (!Number.isSafeInteger(number) || number < least) {
      throw usageError(`--${name} must be a whole number of at least ${least}, not '${value}'`);
    }
    return number;
  }
}

/** Parses what follows the command's name. Throws usage errors. */
export function parseCommand(command: Command, argv: readonly string[]): Arguments {
  const options = optionsOf(command);
  const config = Object.fromEntries(
    Object.entries(options).map(([name, option]) => [
      name,
      {
        type: option.value === undefined ? ('boolean' as const) : ('string' as const),
        ...(option.short === undefined ? {} : { short: option.short }),
      },
    ]),
  );
  const { tokens } = parseArgs({
    args: [...argv],
    options: config,
    strict: false,
    allowPositionals: true,
    tokens: true,
  });

  const values = new Map<string, string | true>();
  const positionals: string[] = [];
  for (const token of tokens) {
    if (token.kind === 'positional') positionals.push(token.value);
    if (token.kind !== 'option') continue;
    values.set(token.name, checkOption(command, options, token));
  }
  if (!values.has('help')) checkPositionals(command, positionals);
  return new Arguments(positionals, values);
}

interface OptionToken {
  name: string;
  rawName: string;
  value?: string | undefined;
  inlineValue?: boolean | undefined;
}

function checkOption(command: Command, options: Readonly<Record<string, Option>>, token: OptionToken): string | true {
  const option = Object.hasOwn(options, token.name) ? options[token.name] : undefined;
  if (option === undefined) {
    if (/^-\d/.test(token.rawName))
      throw usageError(`${command.name} takes no negative number, such as ${token.rawName}`);
    const meant = nearest(token.name, Object.keys(options));
    const hint = meant === undefined ? `See pagefault ${command.name} --help.` : `Did you mean --${meant}?`;
    throw usageError(`${command.name} has no option ${token.rawName}`, hint);
  }
  if (option.value === undefined) {
    if (token.value !== undefined) throw usageError(`${token.rawName} takes no value`);
    return true;
  }
  const missing =
    token.value === undefined || (token.inlineValue !== true && token.value !== '-' && token.value.startsWith('-'));
  if (missing) throw usageError(`${token.rawName} needs a value: ${token.rawName} ${option.value}`);
  return token.value ?? '';
}

function checkPositionals(command: Command, positionals: readonly string[]): void {
  const { length } = command.positionals;
  const see = `See pagefault ${command.name} --help.`;
  if (positionals.length < length) {
    throw usageError(`${command.name} needs ${command.positionals.slice(positionals.length).join(' and ')}`, see);
  }
  const extra = positionals[length];
  if (extra !== undefined) throw usageError(`${command.name} takes no argument '${extra}'`, see);
}
