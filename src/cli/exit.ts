/** How commands end: exit codes, and the errors that carry them. Main thread. */

/** What the shell gets. */
export const EXIT = {
  ok: 0,
  /** Something could not be done. */
  failure: 1,
  /** The command line is wrong. */
  usage: 2,
  /** What was read is not what the store has. */
  mismatch: 3,
  /** This kernel, process or runtime cannot do it. */
  unsupported: 4,
  /** Ended by SIGINT. */
  interrupted: 130,
  /** Ended by SIGTERM. */
  terminated: 143,
} as const;
export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** An error of the command line itself. Library errors keep their own codes; see `exitCodeOf`. */
export class CliError extends Error {
  readonly code: string;
  readonly exitCode: ExitCode;
  /** What to try, printed after the message. */
  readonly hint: string | undefined;

  constructor(exitCode: ExitCode, code: string, message: string, hint?: string) {
    super(message);
    this.name = 'CliError';
    this.exitCode = exitCode;
    this.code = code;
    this.hint = hint;
  }
}

/** A wrong command line. */
export function usageError(message: string, hint?: string): CliError {
  return new CliError(EXIT.usage, 'ERR_PAGEFAULT_USAGE', message, hint);
}

/** SIGINT. */
export function interruptedError(): CliError {
  return new CliError(EXIT.interrupted, 'ERR_PAGEFAULT_INTERRUPTED', 'interrupted');
}

const ARGUMENT_CODES = new Set([
  'ERR_PAGEFAULT_INVALID_ARGUMENT',
  'ERR_PAGEFAULT_UNKNOWN_OPTION',
  'ERR_PAGEFAULT_NOT_YET',
  'ERR_PAGEFAULT_OUT_OF_RANGE',
  'ERR_PAGEFAULT_NULL_BASE',
  'ERR_PAGEFAULT_ZERO_SIZE',
  'ERR_PAGEFAULT_BASE_NOT_ALIGNED',
  'ERR_PAGEFAULT_SIZE_NOT_ALIGNED',
  'ERR_PAGEFAULT_PAGE_SIZE_UNAVAILABLE',
  'ERR_PAGEFAULT_OUT_OF_BOUNDS',
]);

/** The stable code of any error. */
export function codeOf(error: unknown): string {
  const code: unknown = error instanceof Error ? (error as { code?: unknown }).code : undefined;
  return typeof code === 'string' ? code : 'ERR_PAGEFAULT_FAILURE';
}

/** What the shell gets for an error. */
export function exitCodeOf(error: unknown): ExitCode {
  return error instanceof CliError ? error.exitCode : exitCodeOfCode(codeOf(error));
}

const UNSUPPORTED_CODES = new Set(['ERR_PAGEFAULT_UNSUPPORTED', 'ERR_PAGEFAULT_PERMISSION']);

/** What the shell gets for an error of which only the code is known: one of another process. */
export function exitCodeOfCode(code: string): ExitCode {
  if (ARGUMENT_CODES.has(code)) return EXIT.usage;
  if (code === 'ERR_PAGEFAULT_MISMATCH') return EXIT.mismatch;
  return UNSUPPORTED_CODES.has(code) ? EXIT.unsupported : EXIT.failure;
}
