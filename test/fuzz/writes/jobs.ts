/** What takes time: loads, pins and flushes, awaited or begun and joined later. */

import { setTimeout as sleep } from 'node:timers/promises';
import { PageError, type Pin } from 'pagefault';
import type { Op } from './case.js';
import type { Subject } from './subject.js';

const HANG_MS = 30_000;
const aborted = new Error('aborted by the fuzz');

export function describe(error: unknown): string {
  if (!(error instanceof Error)) return `throw of ${String(error)}`;
  const { code } = error as { code?: string };
  return `${error.name} ${code ?? ''}: ${error.message}`;
}

export const codeOf = (error: unknown): string | undefined => (error as { code?: string } | undefined)?.code;

export function rangeOf({ at, n }: Op, byteLength: number): { offset: number; length: number } {
  const offset = at % byteLength;
  return { offset, length: Math.max(1, Math.min(n, byteLength - offset)) };
}

export async function within(promise: Promise<string | undefined>, what: string): Promise<string | undefined> {
  const stop = new AbortController();
  const late = sleep(HANG_MS, `${what} did not end`, { signal: stop.signal }).catch(() => what);
  try {
    return await Promise.race([promise, late]);
  } finally {
    stop.abort();
  }
}

/** What is wrong with an error of `load` or `pin`. */
function refused(subject: Subject, error: unknown, may: boolean, pins: boolean): string | undefined {
  const code = codeOf(error);
  if (error === aborted || (subject.closing && code === 'ERR_PAGEFAULT_CLOSED')) return undefined;
  if (pins && code === 'ERR_PAGEFAULT_BUDGET' && subject.limit !== undefined) return undefined;
  if (may && error instanceof PageError && code === 'ERR_PAGEFAULT_STORE') return undefined;
  return `unexpected ${describe(error)}`;
}

export async function load(subject: Subject, op: Op, signal?: AbortSignal): Promise<string | undefined> {
  const { offset, length } = rangeOf(op, subject.model.byteLength);
  const may = subject.risk(offset, length, false) !== 'never';
  try {
    await subject.segment.load(offset, length, signal === undefined ? {} : { signal });
  } catch (error) {
    return refused(subject, error, may, false);
  }
  return undefined;
}

export async function pin(subject: Subject, op: Op, signal?: AbortSignal): Promise<string | undefined> {
  const { model } = subject;
  const { offset, length } = rangeOf(op, model.byteLength);
  const may = subject.risk(offset, length, false) !== 'never';
  const { first, end } = model.pagesOf(offset, length);
  subject.countPins(first, end, 1);
  let made: Pin;
  try {
    made = await subject.segment.pin(offset, length, signal === undefined ? {} : { signal });
  } catch (error) {
    if (!subject.closing) unpinned(subject, first, end);
    return refused(subject, error, may, true);
  }
  subject.pins.push({ pin: made, offset, first, end });
  return model.wrong(made.bytes, offset);
}

/** Pages that were discarded while they were pinned go with the last pin. */
function unpinned(subject: Subject, first: number, end: number): void {
  subject.countPins(first, end, -1);
  for (let page = first; page < end; page++) {
    if (subject.pinCount[page] === 0 && subject.model.doomed.has(page)) subject.model.revert(page, page + 1);
  }
}

export function unpin(subject: Subject, which: number): string | undefined {
  const held = subject.pins.splice(which % Math.max(1, subject.pins.length), 1)[0];
  if (held === undefined) return undefined;
  const { pin: made, offset, first, end } = held;
  const wrong = subject.of.threads.length > 0 ? undefined : subject.model.wrong(made.bytes, offset);
  made.release();
  made.release();
  unpinned(subject, first, end);
  return wrong;
}

export async function flush(subject: Subject, op: Op, signal?: AbortSignal): Promise<string | undefined> {
  const { model, segment } = subject;
  const { offset, length } = rangeOf(op, model.byteLength);
  const { first, end } = model.pagesOf(offset, length);
  const begun = model.now;
  const { refusals } = subject;
  const { told } = subject;
  const ended = subject.ledger.get('ended');
  for (let page = first; page < end; page++) subject.opened.delete(page);
  try {
    await segment.flush(offset, length, signal === undefined ? {} : { signal });
  } catch (error) {
    subject.blurred = true;
    subject.opened.clear();
    const code = codeOf(error);
    if (error === aborted || (subject.closing && code === 'ERR_PAGEFAULT_CLOSED')) return undefined;
    const may =
      refusals.has(code ?? '') || (subject.told !== told && /^ERR_PAGEFAULT_STORE(_WRITE|_SYNC)?$/.test(code ?? ''));
    return may && error instanceof PageError ? undefined : `unexpected ${describe(error)}`;
  }
  // What a flush that failed had written is modified still, and is synced with its next flush; what is behind the range may be on its way.
  const all = subject.isCustom && !subject.blurred && first === 0 && end >= subject.ledger.storePages;
  if (all && subject.ledger.get('synced') < ended) return 'what was written before the flush was not synced';
  for (let page = first; page < end; page++) {
    subject.opened.delete(page);
    if ((model.writtenAt[page] ?? 0) > begun || model.doomed.has(page)) continue;
    model.writtenAt[page] = 0;
    if (page >= subject.ledger.storePages) continue;
    const from = page * model.pageSize;
    const size = Math.min(model.endOf(page), subject.ledger.inStore) - from;
    if (Buffer.compare(model.stored(from, size), model.bytes.subarray(from, from + size)) !== 0) {
      return `page ${page} was flushed, and the store has something else`;
    }
  }
  return undefined;
}

/** Begins a job, and perhaps aborts it a few ms later. */
export function begin(subject: Subject, op: Op): void {
  const abort = op.x % 3 === 0 ? new AbortController() : undefined;
  const start = op.do === 'begin pin' ? pin : op.do === 'begin load' ? load : flush;
  const started = start(subject, op, abort?.signal);
  if (abort !== undefined) {
    setTimeout(() => {
      subject.blurred = true;
      abort.abort(aborted);
    }, op.x % 7);
  }
  subject.pending.push(within(started, op.do));
}
