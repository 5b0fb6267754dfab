/**
 * What the stream that text goes to can show: colours, block characters, how many columns. Colours follow NO_COLOR,
 * FORCE_COLOR, TERM=dumb and whether the stream is a terminal, as decided by `node:util.styleText`.
 */
import { styleText } from 'node:util';

/** The styles used in pictures and reports. */
export type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan' | 'magenta' | 'gray';

/** How a picture is drawn. `plainTerminal()` and `terminalOf(stream)` make one. */
export interface Terminal {
  /** Columns to stay within. */
  readonly columns: number;
  /** Block characters may be used; otherwise ASCII. */
  readonly unicode: boolean;
  /** Wraps text in a style, or returns it as it is. */
  readonly paint: (style: Style, text: string) => string;
}

const DEFAULT_COLUMNS = 80;
const MIN_COLUMNS = 40;
const MAX_COLUMNS = 120;

/** No colours, fixed width: files, pipes, tests. */
export function plainTerminal(columns: number = DEFAULT_COLUMNS, unicode = true): Terminal {
  return { columns, unicode, paint: (_style, text) => text };
}

/** What this stream can show, with the environment of the process. */
export function terminalOf(stream: NodeJS.WriteStream): Terminal {
  const columns = Math.min(MAX_COLUMNS, Math.max(MIN_COLUMNS, stream.columns ?? DEFAULT_COLUMNS));
  const paint = (style: Style, text: string): string => styleText(style, text, { stream });
  return { columns, unicode: hasUnicode(process.env), paint };
}

/** False on a terminal, or in a locale, that says it has no UTF-8. Where nothing is said, it has. */
export function hasUnicode(env: NodeJS.ProcessEnv): boolean {
  if (env['TERM'] === 'dumb' || env['TERM'] === 'linux') return false;
  const locale = env['LC_ALL'] || env['LC_CTYPE'] || env['LANG'] || '';
  return locale === '' || /utf-?8/i.test(locale);
}
