/** What was thrown may be anything. Any thread. */

/** The sentence of what was thrown. Never throws. */
export function reasonOf(error: unknown): string {
  try {
    return String(error instanceof Error ? error.message : error);
  } catch {
    return 'a value that cannot be printed'; // an object without a prototype, say
  }
}

/** A property of what was thrown; undefined where there is none, or it cannot be read. */
export function propertyOf(error: unknown, name: string): unknown {
  try {
    return (error as Record<string, unknown> | null | undefined)?.[name];
  } catch {
    return undefined;
  }
}

/** What was thrown, as an Error. */
export function asError(error: unknown): Error {
  return error instanceof Error ? error : new Error(reasonOf(error));
}
