/**
 * The lines of the transcript: what each holds, and the words for it. With `--json` a line is these fields; without, these words. Pure
 * functions, any thread.
 */
import { formatQuantity } from '../../observe/format.js';

/** Parts of a line that name one child where there are several. */
interface OfChild {
  readonly child: number;
  /** Whether the words must say which child. */
  readonly several: boolean;
}

export type Line =
  | { readonly type: 'parent-entering' | 'parent-exiting' | 'child-entering' | 'child-exiting' }
  | { readonly type: 'thread-entering' | 'thread-exiting' }
  | { readonly type: 'page-size'; readonly pageSize: number }
  | { readonly type: 'child-started'; readonly child: number }
  | { readonly type: 'mapped'; readonly pages: number; readonly address: bigint; readonly byteLength: number }
  | (OfChild & {
      readonly type: 'fault';
      readonly kind: 'missing' | 'write-protect' | 'minor';
      readonly access: 'read' | 'write';
      readonly address: bigint;
      readonly page: number;
      readonly tid: number | undefined;
    })
  | (OfChild & {
      readonly type: 'copied';
      readonly byteLength: number;
      readonly letter: string;
      readonly address: bigint;
      readonly page: number;
      readonly ahead: boolean;
      readonly saved: boolean;
    })
  | { readonly type: 'read' | 'wrote'; readonly letter: string; readonly address: bigint }
  | (OfChild & { readonly type: 'written'; readonly page: number })
  | (OfChild & { readonly type: 'evicted'; readonly page: number; readonly saved: boolean })
  | (OfChild & { readonly type: 'removed'; readonly page: number; readonly count: number })
  | {
      readonly type: 'strategy';
      readonly from: string;
      readonly to: string;
      readonly faults: number;
      readonly by: 'faults' | 'key';
    }
  | { readonly type: 'sigchld'; readonly child: number; readonly code?: string; readonly status?: number }
  | { readonly type: 'exited'; readonly child: number; readonly code: number }
  | { readonly type: 'killed'; readonly child: number; readonly signal: string; readonly coreDumped: boolean }
  | { readonly type: 'stopped'; readonly child: number; readonly signal: string }
  | { readonly type: 'continued'; readonly child: number }
  | (OfChild & {
      readonly type: 'dirty';
      readonly pages: number;
      readonly ranges: readonly (readonly [number, number])[];
    })
  | { readonly type: 'explain'; readonly call: string; readonly why: string };

export function hex(address: bigint): string {
  return `0x${address.toString(16)}`;
}

function of(line: OfChild): string {
  return line.several ? ` of child ${line.child}` : '';
}

/** What a line says, without who says it. */
export function wordsOf(line: Line): string {
  switch (line.type) {
    case 'parent-entering':
    case 'parent-exiting':
    case 'child-entering':
    case 'child-exiting':
    case 'thread-entering':
    case 'thread-exiting':
      return line.type.replace('-', ' ');
    case 'page-size':
      return `page size ${line.pageSize}`;
    case 'child-started':
      return `child ${line.child} started`;
    case 'mapped':
      return `mapped ${formatQuantity(line.pages, 'page')} at ${hex(line.address)}`;
    case 'read':
      return `read '${line.letter}' at ${hex(line.address)}`;
    case 'wrote':
      return `wrote '${line.letter}' at ${hex(line.address)}`;
    case 'strategy':
      return `strategy ${line.from} → ${line.to} after ${formatQuantity(line.faults, 'fault')}`;
    case 'explain':
      return `    · ${line.call}: ${line.why}`;
    case 'fault':
    case 'copied':
    case 'written':
    case 'evicted':
    case 'removed':
    case 'dirty':
      return wordsOfPages(line);
    default:
      return wordsOfStatus(line);
  }
}

type PageLine = Extract<Line, OfChild>;

function wordsOfPages(line: PageLine): string {
  switch (line.type) {
    case 'fault':
      return `page fault${of(line)}: ${line.kind}, ${line.access}, address ${hex(line.address)}`;
    case 'copied': {
      const what = line.saved ? `page ${line.page} as it was saved` : `'${line.letter}'`;
      return `copied ${line.byteLength} bytes of ${what} to ${hex(line.address)}${of(line)}${line.ahead ? ', ahead' : ''}`;
    }
    case 'written':
      return `page ${line.page}${of(line)} is dirty now`;
    case 'evicted':
      return `page ${line.page}${of(line)} evicted${line.saved ? ', and what was written to it saved' : ''}`;
    case 'removed':
      return `${formatQuantity(line.count, 'page')}${of(line)} given up by itself, from page ${line.page} on`;
    case 'dirty': {
      const ranges = line.ranges.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join(', ');
      return `dirty at the end${of(line)}: ${formatQuantity(line.pages, 'page')}${ranges === '' ? '' : ` (${ranges})`}`;
    }
  }
}

type StatusLine = Extract<Line, { type: 'sigchld' | 'exited' | 'killed' | 'stopped' | 'continued' }>;

function wordsOfStatus(line: StatusLine): string {
  switch (line.type) {
    case 'sigchld': {
      const seen = line.code === undefined ? '' : ` (${line.code}, status ${line.status})`;
      return `got signal SIGCHLD from child ${line.child}${seen}`;
    }
    case 'exited':
      return `child ${line.child} exited with code ${line.code}`;
    case 'killed':
      return `child ${line.child} killed by ${line.signal}${line.coreDumped ? ', core dumped' : ''}`;
    case 'stopped':
      return `child ${line.child} stopped by ${line.signal}`;
    case 'continued':
      return `child ${line.child} continued`;
  }
}

/** The fields of a line for JSON: addresses in hexadecimal, without what only the words need. */
export function fieldsOf(line: Line): Record<string, unknown> {
  const entries = Object.entries(line)
    .filter(([key]) => key !== 'several')
    .map(([key, value]) => [key, typeof value === 'bigint' ? hex(value) : value]);
  return Object.fromEntries(entries);
}
