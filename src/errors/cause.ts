/**
 * Errors on their way from the Worker that runs a store to the thread that touched the page: JSON in a fixed number of
 * bytes, because the core keeps them beside the page. Written in the pager's Worker, read on any thread.
 */

/** The core keeps this many bytes of a cause. */
const LIMIT = 3072;

interface Written {
  name: string;
  message: string;
  code?: string;
  stack?: string;
  cause?: Written;
}

function text(value: unknown, limit: number): string {
  let string: string;
  try {
    string = String(value);
  } catch {
    string = 'a value that cannot be printed';
  }
  return string.length > limit ? `${string.slice(0, limit - 3)}...` : string;
}

function write(error: unknown, depth: number, stackLimit: number, messageLimit: number): Written {
  if (!(error instanceof Error)) return { name: 'Error', message: text(error, messageLimit) };
  const written: Written = { name: text(error.name, 100), message: text(error.message, messageLimit) };
  const { code } = error as { code?: unknown };
  if (typeof code === 'string' || typeof code === 'number') written.code = text(code, 100);
  if (stackLimit > 0 && typeof error.stack === 'string') written.stack = text(error.stack, stackLimit);
  if (depth > 0 && error.cause !== undefined) written.cause = write(error.cause, depth - 1, 0, messageLimit);
  return written;
}

/** JSON of an error, at most 3 KiB: the stack is shortened first, then the causes, then the message. Never throws. */
export function serializeCause(error: unknown): string {
  const attempts = [
    [3, 2000, 1000],
    [2, 800, 500],
    [1, 0, 400],
    [0, 0, 200],
  ] as const;
  for (const [depth, stackLimit, messageLimit] of attempts) {
    try {
      const json = JSON.stringify(write(error, depth, stackLimit, messageLimit));
      if (Buffer.byteLength(json) <= LIMIT) return json;
    } catch {
      // An error whose properties throw when read: try with fewer of them.
    }
  }
  return '';
}

function read(written: Partial<Written>): Error {
  const cause = written.cause === undefined ? undefined : { cause: read(written.cause) };
  const error = new Error(String(written.message ?? ''), cause);
  const name = String(written.name ?? 'Error');
  if (name !== 'Error') Object.defineProperty(error, 'name', { value: name, configurable: true, writable: true });
  if (written.code !== undefined) Object.assign(error, { code: written.code });
  error.stack = written.stack ?? `${name}: ${error.message}`;
  return error;
}

/** The error again, as an Error with the name, message, code and stack of the original; undefined for ''. */
export function deserializeCause(json: string): Error | undefined {
  if (json === '') return undefined;
  try {
    return read(JSON.parse(json) as Partial<Written>);
  } catch {
    return new Error(json);
  }
}
