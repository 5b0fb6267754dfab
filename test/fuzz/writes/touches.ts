/** Writing to the memory and reading it, in all the ways there are; what is wrong with what came, in a sentence. One thread. */

import { openSync, readSync, writeFileSync } from 'node:fs';
import { PageError } from 'pagefault';
import { PAGE_STATE } from '#dist/native/binding.js';
import { temporaryPath } from '../../helpers/stores.js';
import type { Op } from './case.js';
import { codeOf, describe, rangeOf } from './jobs.js';
import type { Subject } from './subject.js';

const MOST = 2 ** 19;
/** A wide store that straddles a border may be lost on both sides of it when one side fails. */
const WIDEST = 64;
const SOURCE = 2 ** 17;

/** What a write may mean: not the bytes behind the store's end in its last page, which are nobody's. */
export function writableRange(subject: Subject, op: Op): { offset: number; length: number } {
  const { byteLength, pageSize } = subject.model;
  const { inStore, storePages } = subject.ledger;
  const range = rangeOf(op, byteLength);
  const behind = storePages * pageSize;
  // What is written there stays for good, and takes room from the budget.
  const { resident } = subject.plan;
  const most =
    resident === undefined ? byteLength : resident === 'shared' || resident < 6 * pageSize ? behind : behind + pageSize;
  const last = Math.min(byteLength, most);
  let { offset } = range;
  if (offset >= inStore && offset < behind) offset = behind < last ? behind : offset % inStore;
  if (offset >= last) offset %= inStore;
  const end = offset < inStore ? inStore : last;
  return { offset, length: Math.min(range.length, end - offset, MOST) };
}

export function pattern({ x }: Op, length: number, now: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 31 + (i >> 8) * 7 + x + now * 17) & 0xff;
  return bytes;
}

/** Runs a write of a range within one page, and looks whether the store was asked as it should be. */
function observed(subject: Subject, offset: number, length: number, write: () => void): string | undefined {
  const { ledger, model, segment } = subject;
  const page = ledger.pageOf(offset);
  const alone = page === ledger.pageOf(offset + length - 1) && subject.pending.length === 0;
  if (!subject.hasOnWrite || !alone || page >= ledger.storePages || model.doomed.has(page)) {
    write();
    return undefined;
  }
  const from = page * model.pageSize;
  const dirty = segment.dirty(from, model.endOf(page) - from).length > 0;
  const present = subject.presence()[page] === PAGE_STATE.present; // one that is on its way out may be clean before it is written to
  const before = ledger.agreed(page);
  write();
  const asked = ledger.agreed(page) - before;
  const known = subject.opened.has(page) && dirty && present && subject.told === 0; // what a sync may have lost is dirty too, and clean in memory
  subject.opened.add(page);
  if (!dirty && asked === 0) return `page ${page} was clean and is written, and onWrite was not called`;
  if (asked > 1) return `onWrite was called ${asked} times for one write to page ${page}`;
  if (known && asked > 0) return `onWrite was called for page ${page}, which was modified already`;
  return undefined;
}

const WIDTHS = [1, 2, 4, 8] as const;

function store(view: DataView, at: number, width: number, value: number): void {
  if (width === 1) view.setUint8(at, value);
  else if (width === 2) view.setUint16(at, value * 257, true);
  else if (width === 4) view.setUint32(at, value * 16_843_009, true);
  else view.setBigUint64(at, BigInt(value) * 0x0101010101010101n, true);
}

/** Single writes of every width, also across borders. */
function poke(subject: Subject, op: Op): string | undefined {
  const { view, model } = subject;
  const data = new DataView(view.buffer, view.byteOffset, view.byteLength);
  const width = WIDTHS[op.x % 4] ?? 1;
  const stride = op.x % 5 === 0 ? model.pageSize : 1 + (op.x % 97);
  for (let i = 0; i < Math.min(op.n, 24); i++) {
    const one = { ...op, at: op.at + i * stride, n: width };
    const { offset, length } = writableRange(subject, one);
    if (subject.risk(offset, length, true) !== 'never') continue;
    const value = (op.x + i + model.now) & 0xff;
    const wrong = observed(subject, offset, length, () => {
      if (length === width) store(data, offset, width, value);
      else for (let k = 0; k < length; k++) view[offset + k] = value;
    });
    model.write(offset, new Uint8Array(length).fill(value));
    if (wrong !== undefined) return wrong;
  }
  return undefined;
}

/** Writes of many bytes by the runtime's own loops. */
function bulk(subject: Subject, op: Op): string | undefined {
  const { view, model } = subject;
  const { offset, length } = writableRange(subject, op);
  if (subject.risk(offset, length, true) !== 'never') return undefined;
  const bytes = op.do === 'fill' ? new Uint8Array(length).fill(op.x) : pattern(op, length, model.now);
  const wrong = observed(subject, offset, length, () => {
    if (op.do === 'fill') view.fill(op.x, offset, offset + length);
    else view.set(bytes, offset);
  });
  model.write(offset, bytes);
  return wrong;
}

/** A page that a copy reads and that leaves before it is written to must come back, so both sides must be sure. */
function copyWithin(subject: Subject, op: Op): string | undefined {
  const { view, model } = subject;
  const { offset, length } = writableRange(subject, op);
  const from = (op.x * 131) % (model.byteLength - length + 1);
  if (subject.risk(offset, length, true) !== 'never' || subject.risk(from, length, false) !== 'never') return undefined;
  view.copyWithin(offset, from, from + length);
  model.write(offset, model.bytes.slice(from, from + length));
  return undefined;
}

/** `segment.write`: also of bytes that are paged themselves. */
function write(subject: Subject, op: Op): string | undefined {
  const { model, segment, view } = subject;
  const { offset, length } = writableRange(subject, op);
  const risk = subject.risk(offset, length, true);
  let bytes = pattern(op, length, model.now);
  const own = op.x % 7 === 0 && risk === 'never' && subject.risk(0, length, false) === 'never';
  if (own) bytes = model.bytes.slice(0, length);
  const from =
    own && (offset >= length || model.pagesOf(0, length).end <= model.pagesOf(offset, 1).first)
      ? view.subarray(0, length)
      : bytes;
  try {
    // Reading what is paged may push out the page that is written to.
    if (from !== bytes) subject.opened.clear();
    const wrong = observed(subject, offset, length, () => segment.write(offset, from));
    model.write(offset, bytes);
    return wrong ?? (risk === 'surely' ? 'write() succeeded over a failed page' : undefined);
  } catch (error) {
    if (!(error instanceof PageError) || risk === 'never' || codeOf(error) !== 'ERR_PAGEFAULT_STORE') {
      return `unexpected ${describe(error)}`;
    }
    const stop = (error.page ?? 0) * model.pageSize;
    if (stop > offset) model.write(offset, bytes.subarray(0, stop - offset));
    const rest = Math.max(offset, stop);
    return adopt(subject, rest, bytes.subarray(rest - offset));
  }
}

/** After a write of which a part may have been made: what is there is old or new, and is what must be there from here on. */
function adopt(subject: Subject, offset: number, bytes: Uint8Array): string | undefined {
  const { model, segment } = subject;
  for (let at = offset; at < offset + bytes.length; ) {
    const end = Math.min(model.endOf(subject.ledger.pageOf(at)), offset + bytes.length);
    let found: Uint8Array;
    try {
      found = segment.read(at, end - at);
    } catch {
      at = end; // a failed page has nothing of it
      continue;
    }
    const wanted = bytes.subarray(at - offset, end - offset);
    for (let i = 0; i < found.length; i++) {
      if (found[i] === wanted[i] || found[i] === model.bytes[at + i]) continue;
      return `byte ${at + i} is ${found[i]} after a write that failed: neither ${model.bytes[at + i]} nor ${wanted[i]}`;
    }
    if (Buffer.compare(found, model.bytes.subarray(at, end)) !== 0) model.write(at, found);
    else model.touchWritten(at, end - at);
    at = end;
  }
  return undefined;
}

function attempt(subject: Subject, op: Op): string | undefined {
  const { model, segment, view } = subject;
  const whole = writableRange(subject, op);
  const risk = subject.risk(whole.offset, whole.length, true);
  const offset = whole.offset;
  const length = risk === 'never' ? whole.length : Math.min(whole.length, 2048); // each touch of a failed page is a fault
  const bytes = pattern(op, length, model.now);
  try {
    segment.attempt(() => view.set(bytes, offset));
  } catch (error) {
    if (!(error instanceof PageError) || risk === 'never') return `unexpected ${describe(error)}`;
    const wrong = adopt(subject, offset, bytes);
    return wrong ?? wrongSure(subject, offset, bytes);
  }
  model.write(offset, bytes);
  return risk === 'surely' && length === whole.length ? 'attempt() did not throw over a failed page' : undefined;
}

/** Pages that cannot fail have what was written to them, but for what lies at the border to one that can. */
function wrongSure(subject: Subject, offset: number, bytes: Uint8Array): string | undefined {
  const { model } = subject;
  const { first, end } = model.pagesOf(offset, bytes.length);
  for (let page = first; page < end; page++) {
    const from = Math.max(offset, page * model.pageSize + WIDEST);
    const to = Math.min(offset + bytes.length, model.endOf(page) - WIDEST);
    if (to <= from || subject.risk(from, 1, true) !== 'never') continue;
    if (subject.hasOnWrite) continue; // it may have been refused, and would not be now
    if (Buffer.compare(model.bytes.subarray(from, to), bytes.subarray(from - offset, to - offset)) !== 0) {
      return `page ${page} could be had, and does not have what was written to it in attempt()`;
    }
  }
  return undefined;
}

let source: { fd: number; bytes: Uint8Array } | undefined;

/** The kernel writes: it may refuse (EFAULT), and then it has written the first part or nothing. */
function kernel(subject: Subject, op: Op): string | undefined {
  const { model, view } = subject;
  const { offset, length } = writableRange(subject, { ...op, n: Math.min(op.n, SOURCE / 2) });
  if (subject.risk(offset, length, true) !== 'never') return undefined;
  if (source === undefined) {
    const path = temporaryPath();
    const bytes = pattern(op, SOURCE, 1);
    writeFileSync(path, bytes);
    source = { fd: openSync(path, 'r'), bytes };
  }
  const position = op.x % (SOURCE / 2);
  const wanted = source.bytes.subarray(position, position + length);
  const { first, end } = model.pagesOf(offset, length);
  let sure = !subject.tracksByFaults;
  for (let page = first; page < end; page++) sure &&= (subject.pinCount[page] ?? 0) > 0 && subject.pending.length === 0;
  let got = 0;
  try {
    got = readSync(source.fd, view, offset, length, position);
  } catch (error) {
    if (codeOf(error) !== 'EFAULT') return `unexpected ${describe(error)}`;
  }
  if (sure && got !== length) return `the kernel wrote ${got} of ${length} bytes to pages that are pinned`;
  if (got > 0) model.write(offset, wanted.subarray(0, got));
  return got < length ? adopt(subject, offset + got, wanted.subarray(got)) : undefined;
}

/** Compares what is there, as the view shows it or `read` copies it. */
function check(subject: Subject, op: Op): string | undefined {
  const { model, segment, view } = subject;
  const { offset, length } = rangeOf(op, model.byteLength);
  const risk = subject.risk(offset, length, false);
  try {
    const raw = op.do === 'check';
    if (raw && risk !== 'never') return undefined;
    const found = raw ? view.slice(offset, offset + length) : segment.read(offset, length);
    return model.wrong(found, offset) ?? (risk === 'surely' ? 'a failed page was read' : undefined);
  } catch (error) {
    if (risk !== 'never' && error instanceof PageError && codeOf(error) === 'ERR_PAGEFAULT_STORE') return undefined;
    return `unexpected ${describe(error)}`;
  }
}

export const touches: Partial<Record<Op['do'], (subject: Subject, op: Op) => string | undefined>> = {
  poke,
  fill: bulk,
  set: bulk,
  'copy within': copyWithin,
  write,
  kernel,
  attempt,
  check,
  read: check,
};
