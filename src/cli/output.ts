/**
 * Where a command writes: its result to stdout, everything else to stderr; with `--json` one document on stdout, also for
 * an error. Main thread.
 */
import { reasonOf } from '../errors/reason.js';
import { type Terminal, terminalOf } from '../observe/index.js';
import { CliError, codeOf, type ExitCode, exitCodeOf } from './exit.js';
import { Progress } from './progress.js';

interface ErrorDocument {
  code: string;
  message: string;
  hint?: string;
  cause?: ErrorDocument;
}

/** Made once from the flags that all commands have. */
export class Output {
  readonly json: boolean;
  readonly #quiet: boolean;

  constructor(flags: { json: boolean; quiet: boolean }) {
    this.json = flags.json;
    this.#quiet = flags.quiet;
  }

  /** How stdout shows pictures and colours. */
  get terminal(): Terminal {
    return terminalOf(process.stdout);
  }

  /** The result: `document` with `--json`, else the lines. */
  result(document: unknown, lines: () => readonly string[]): void {
    const text = this.json ? JSON.stringify(document, null, 2) : lines().join('\n');
    process.stdout.write(`${text}\n`);
  }

  /** A line of progress on stderr, which shows only on a terminal that a person watches. */
  progress(): Progress {
    const watched = process.stderr.isTTY === true && !process.env['CI'] && !this.#quiet;
    return new Progress(process.stderr, watched);
  }

  /** Reports an error and says what the shell gets. */
  error(error: unknown): ExitCode {
    if (this.json) process.stdout.write(`${JSON.stringify({ error: describe(error) }, null, 2)}\n`);
    else process.stderr.write(`${sentences(error, terminalOf(process.stderr)).join('\n')}\n`);
    return exitCodeOf(error);
  }
}

function describe(error: unknown): ErrorDocument {
  const document: ErrorDocument = { code: codeOf(error), message: reasonOf(error) };
  if (error instanceof CliError && error.hint !== undefined) document.hint = error.hint;
  if (error instanceof Error && error.cause !== undefined) document.cause = describe(error.cause);
  return document;
}

function sentences(error: unknown, terminal: Terminal): string[] {
  const lines = [`${terminal.paint('red', 'pagefault:')} ${reasonOf(error)}`];
  let cause = error instanceof Error ? error.cause : undefined;
  while (cause !== undefined) {
    const message = reasonOf(cause);
    if (!lines.at(-1)?.includes(message)) lines.push(`  because: ${message}`);
    cause = cause instanceof Error ? cause.cause : undefined;
  }
  if (error instanceof CliError && error.hint !== undefined) lines.push(`  ${error.hint}`);
  if (process.env['NODE_DEBUG']?.includes('pagefault') && error instanceof Error) lines.push(error.stack ?? '');
  return lines;
}
