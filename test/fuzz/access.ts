/** Reads a segment in all the ways there are, and says what is wrong with what came. Any thread. */

import { PageError, type Segment } from 'pagefault';
import type { Op } from './case.js';
import type { Truth } from './truth.js';

/** Whether a page of a range may fail: 'surely' when it is known to be failed already. */
export type Fails = 'never' | 'maybe' | 'surely';

export interface Subject {
  readonly segment: Segment;
  readonly view: Uint8Array;
  readonly truth: Truth;
  fails(offset: number, length: number): Fails;
}

const CODES = new Set(['ERR_PAGEFAULT_STORE', 'ERR_PAGEFAULT_SHORT_READ', 'ERR_PAGEFAULT_LONG_READ']);

/** The part of the segment that an operation means. */
export function rangeOf({ at, n }: Op, byteLength: number): { offset: number; length: number } {
  const offset = at % byteLength;
  return { offset, length: Math.max(1, Math.min(n, byteLength - offset)) };
}

/** What is wrong with an error, where one may come. */
export function wrongError(
  error: unknown,
  fails: Fails,
  subject: Subject,
  offset: number,
  length: number,
): string | undefined {
  if (!(error instanceof PageError) || fails === 'never') return `unexpected ${describe(error)}`;
  if (!CODES.has(error.code)) return `unexpected ${describe(error)}`;
  const { pageSize } = subject.segment;
  const first = Math.floor(offset / pageSize);
  const page = error.page ?? -1;
  if (page < first || page * pageSize >= offset + length)
    return `${describe(error)}: of page ${error.page}, which is not in the range`;
  return undefined;
}

export function describe(error: unknown): string {
  if (!(error instanceof Error)) return `throw of ${String(error)}`;
  const { code } = error as { code?: string };
  return `${error.name} ${code ?? ''}: ${error.message}`;
}

/** Copies a range out of a view: by JavaScript, by the runtime's C++, or across the pages' borders. */
function copyRaw(view: Uint8Array, offset: number, length: number, way: number): Uint8Array {
  if (way % 3 === 0) return view.slice(offset, offset + length);
  const copy = new Uint8Array(length);
  if (way % 3 === 1 || length < 8) {
    for (let i = 0; i < length; i++) copy[i] = view[offset + i] ?? 0;
    return copy;
  }
  const from = new DataView(view.buffer, view.byteOffset + offset, length);
  const to = new DataView(copy.buffer);
  let i = 0;
  for (; i + 8 <= length; i += 8) to.setBigUint64(i, from.getBigUint64(i));
  for (; i < length; i++) to.setUint8(i, from.getUint8(i));
  return copy;
}

function touch(subject: Subject, { at, n, x }: Op): string | undefined {
  const { view, truth } = subject;
  const stride = x % 5 === 0 ? truth.pageSize : 1 + x * 37;
  for (let i = 0; i < Math.min(n, 40); i++) {
    const offset = (at + i * stride) % truth.byteLength;
    if (subject.fails(offset, 1) !== 'never') continue;
    const oldest = truth.oldest(offset, 1);
    const byte = view[offset] ?? -1;
    const wrong = truth.wrong(Uint8Array.of(byte), offset, oldest);
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

/** Does a 'touch', 'range', 'read' or 'attempt'; the sentence that says what went wrong, or undefined. */
export function access(subject: Subject, op: Op): string | undefined {
  if (op.do === 'touch') return touch(subject, op);
  const { segment, view, truth } = subject;
  const { offset, length: asked } = rangeOf(op, segment.byteLength);
  const fails = subject.fails(offset, asked);
  // Every touch of a page that failed is a fault, so not too many of them.
  const length = fails === 'never' || op.do === 'read' ? asked : Math.min(asked, 2048);
  const oldest = truth.oldest(offset, length);
  let copy: Uint8Array;
  try {
    if (op.do === 'read') copy = segment.read(offset, length);
    else if (op.do === 'range' && fails === 'never') copy = copyRaw(view, offset, length, op.x);
    else copy = segment.attempt(() => copyRaw(view, offset, length, op.x));
  } catch (error) {
    return wrongError(error, fails, subject, offset, length);
  }
  if (fails === 'surely' && length === asked) return 'no error, though a page of the range is failed';
  return truth.wrong(copy, offset, oldest);
}
