/** Does one operation of a case in which one thread is at work; the sentence that says what went wrong, or undefined. */

import { setTimeout as sleep } from 'node:timers/promises';
import { PageError } from 'pagefault';
import type { Op } from './case.js';
import { begin, codeOf, describe, flush, load, pin, rangeOf, unpin, within } from './jobs.js';
import type { Subject } from './subject.js';
import { touches } from './touches.js';

async function discard(subject: Subject, op: Op): Promise<string | undefined> {
  const { model, segment, ledger } = subject;
  const wrong = await subject.join(); // a flush that is under way may clean what is about to be discarded, or not
  if (wrong !== undefined) return wrong;
  // A write that was given up may still reach the store.
  for (let i = 0; i < 500 && ledger.get('inFlight') > 0; i++) await sleep(1);
  const { offset, length } = rangeOf(op, model.byteLength);
  const { first, end } = model.wholePages(offset, length);
  const dirty = new Set(
    segment.dirty().flatMap((range) => {
      const pages = model.pagesOf(range.offset, range.byteLength);
      return Array.from({ length: pages.end - pages.first }, (_, i) => pages.first + i);
    }),
  );
  segment.discard(offset, length);
  for (let page = first; page < end; page++) {
    const behind = page >= ledger.storePages && model.writtenAt[page] !== 0;
    subject.opened.delete(page);
    if ((subject.pinCount[page] ?? 0) === 0) {
      const before = model.writtenAt[page] ?? 0;
      model.revert(page, page + 1);
      // What eviction had written is lost, and dirty again, should the next sync fail.
      if (subject.limit !== undefined || !dirty.has(page)) model.writtenAt[page] = before;
    } else if (behind || dirty.has(page)) model.doomed.add(page);
  }
  return undefined;
}

/** Forgets pages as `release` and `invalidate` do: what is modified stays. */
function drop(subject: Subject, op: Op): string | undefined {
  const { model, segment } = subject;
  const { offset, length } = rangeOf(op, model.byteLength);
  if (op.do === 'invalidate') {
    segment.invalidate(offset, length);
    return undefined;
  }
  const freed = segment.release(offset, length);
  const { first, end } = model.wholePages(offset, length);
  const most = Math.max(0, end - first) * model.pageSize;
  return freed <= most ? undefined : `release freed ${freed} bytes of ${most}`;
}

function reset(subject: Subject, op: Op): undefined {
  const { model } = subject;
  const { offset, length } = rangeOf(op, model.byteLength);
  subject.segment.resetWriteDetection(offset, length);
  const { first, end } = model.wholePages(offset, length);
  for (let page = first; page < end; page++) subject.opened.delete(page);
  return undefined;
}

/** Tells the store to fail. */
export function fail(subject: Subject, op: Op): undefined {
  const { ledger, model } = subject;
  if (!subject.isCustom) return undefined;
  const times = 1 + (op.x % 4);
  const permanent = op.x % 3 === 0 ? 1 : 0;
  subject.told += 1;
  subject.blurred = true;
  if (op.do === 'fail read') {
    const page = ledger.pageOf(op.at % model.byteLength);
    if (subject.pending.length === 0) ledger.setFailingRead(page, permanent === 1 ? -1 : times);
  } else {
    const what = op.do === 'fail write' ? 'Writes' : op.do === 'fail sync' ? 'Syncs' : 'OnWrites';
    ledger.set(`permanent${what}`, permanent);
    ledger.set(`fail${what}`, times);
  }
  return undefined;
}

async function reopen(subject: Subject, op: Op): Promise<string | undefined> {
  const discards = op.x % 3 === 0;
  for (let tries = 0; ; tries++) {
    const { refusals } = subject;
    try {
      const wrong = await subject.close(discards);
      if (wrong !== undefined) return wrong;
      break;
    } catch (error) {
      const code = codeOf(error);
      subject.opened.clear();
      if (tries === 5) subject.ledger.heal();
      if (!refusals.has(code ?? '') || discards || tries > 9 || !(error instanceof PageError))
        return `close: unexpected ${describe(error)}`;
      const wrong = subject.model.wrongDirty(subject.segment.dirty());
      if (wrong !== undefined) return `after a close that failed: ${wrong}`;
    }
  }
  await subject.open();
  return undefined;
}

export async function actAlone(subject: Subject, op: Op): Promise<string | undefined> {
  const touch = touches[op.do];
  if (touch !== undefined) return touch(subject, op);
  switch (op.do) {
    case 'load':
    case 'pin':
    case 'flush':
      return within({ load, pin, flush }[op.do](subject, op), op.do);
    case 'begin flush':
    case 'begin load':
    case 'begin pin':
      return void begin(subject, op);
    case 'unpin':
      return unpin(subject, op.x);
    case 'release':
    case 'invalidate':
      return drop(subject, op);
    case 'discard':
      return discard(subject, op);
    case 'reset':
      return reset(subject, op);
    case 'dirty':
      return subject.model.wrongDirty(subject.segment.dirty());
    case 'join':
      return subject.join();
    case 'settle':
      return (await subject.settle()) ?? subject.counts() ?? subject.model.wrongDirty(subject.segment.dirty());
    case 'heal':
      return void subject.ledger.heal();
    case 'reopen':
      return reopen(subject, op);
    default:
      return fail(subject, op);
  }
}
