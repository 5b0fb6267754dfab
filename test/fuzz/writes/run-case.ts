/** Runs one case of the fuzz of writes in this process, and compares all that it does with the model. Throws what is wrong as an Error. */

import { setTimeout as sleep } from 'node:timers/promises';
import { budget as makeBudget } from 'pagefault';
import { PAGE_STATE } from '#dist/native/binding.js';
import { Crew } from '../crew.js';
import { actAlone, fail } from './act.js';
import type { Case, Op } from './case.js';
import { describe, flush, load, pin, unpin, within } from './jobs.js';
import { actTogether, flushTogether, type Writer } from './lanes.js';
import { Subject } from './subject.js';
import { storedBy, type ThreadTask, type ToThread } from './thread.js';

const crew = new Crew<ToThread>(new URL('./thread.js', import.meta.url));
const CHUNK = 2 ** 20;

async function actWithOthers(subject: Subject, writer: Writer, op: Op): Promise<string | undefined> {
  switch (op.do) {
    case 'flush':
      return flushTogether(subject.segment, op);
    case 'begin flush':
      return void subject.pending.push(within(flushTogether(subject.segment, op).catch(describe), op.do));
    case 'join':
      return subject.join();
    case 'fail write':
    case 'fail sync':
      return fail(subject, op);
    case 'load':
    case 'pin':
      return within({ load, pin }[op.do](subject, { ...op, at: 0, n: 1 }), op.do);
    case 'unpin':
      return unpin(subject, op.x);
    default:
      return actTogether(writer, op);
  }
}

function sharedBytes({ model }: Subject): SharedArrayBuffer {
  return model.bytes.buffer as SharedArrayBuffer;
}

function begin(of: Case, subjects: readonly Subject[]): Promise<string | undefined>[] {
  const count = of.threads.length + 1;
  return of.threads.map((ops, i) => {
    const segments = subjects.map((subject) => ({
      handle: subject.segment.handle,
      parts: subject.ledger.parts,
      bytes: sharedBytes(subject),
      path: subject.path,
    }));
    const task: ThreadTask = { segments, me: i + 1, of: count, ops };
    return crew.tell(i, { type: 'run', task });
  });
}

async function together(of: Case, subjects: readonly Subject[]): Promise<void> {
  for (const subject of subjects) subject.blurred = true;
  const threads = begin(of, subjects);
  const writers = subjects.map((subject) => {
    const { segment, view, ledger, path, model } = subject;
    return { segment, view, ledger, bytes: model.bytes, me: 0, of: of.threads.length + 1, ...storedBy(ledger, path) };
  });
  for (const [i, op] of of.ops.entries()) {
    const at = op.s % subjects.length;
    const [subject, writer] = [subjects[at], writers[at]];
    if (subject === undefined || writer === undefined) continue;
    const wrong = (await actWithOthers(subject, writer, op)) ?? subject.withinBudget() ?? subject.broken();
    if (wrong !== undefined) throw new Error(`operation ${i} (${JSON.stringify(op)}): ${wrong}`);
    if (i % 8 === 0) await sleep(0);
  }
  for (const wrong of await Promise.all(threads)) if (wrong !== undefined) throw new Error(`in a thread, ${wrong}`);
  for (const writer of writers) writer.end();
  for (const { model } of subjects) model.writtenAt.fill(model.tick());
}

async function alone(of: Case, subjects: readonly Subject[]): Promise<void> {
  for (const [i, op] of of.ops.entries()) {
    const subject = subjects[op.s % subjects.length];
    if (subject === undefined) continue;
    const wrong = (await actAlone(subject, op)) ?? subject.withinBudget() ?? subject.broken();
    if (wrong !== undefined) throw new Error(`operation ${i} (${JSON.stringify(op)}): ${wrong}`);
  }
}

function everything(subject: Subject): string | undefined {
  const { model, view, segment } = subject;
  for (let at = 0; at < model.byteLength; at += CHUNK) {
    const length = Math.min(CHUNK, model.byteLength - at);
    const wrong = model.wrong(at % (2 * CHUNK) === 0 ? view.slice(at, at + length) : segment.read(at, length), at);
    if (wrong !== undefined) return `at the end: ${wrong}`;
  }
  return undefined;
}

/** With everything flushed and let go: what is in memory makes room for other pages, all of it. */
function turnOver(subject: Subject): string | undefined {
  const { model, view, limit, segment, ledger } = subject;
  const size = model.pageSize;
  const budgetPages = limit === undefined ? 0 : Math.max(4 + 2 * subject.of.threads.length, Math.ceil(limit / size));
  const present = (): number[] =>
    [...subject.presence()].flatMap((state, page) => (state === PAGE_STATE.absent ? [] : [page]));
  const before = new Set(
    present()
      .filter((page) => page < ledger.storePages)
      .slice(0, budgetPages),
  );
  const others = Array.from({ length: ledger.storePages }, (_, page) => page).filter((page) => !before.has(page));
  const reads = subject.plan.readahead; // backwards, so that nothing is read ahead
  if (
    limit === undefined ||
    subject.plan.resident === 'shared' ||
    (typeof reads === 'number' && reads > 0) ||
    others.length < 3 * budgetPages
  )
    return undefined;
  for (const page of [...others, ...others].reverse())
    if (view[page * size] !== model.bytes[page * size]) return `page ${page} is wrong`;
  const left = present().find((page) => before.has(page));
  return left === undefined
    ? undefined
    : `page ${left} stays in state ${segment.pages(left, 1)[0]}, whatever else needs the room`;
}

async function finish(subject: Subject): Promise<string | undefined> {
  subject.ledger.heal();
  const all: Op = { do: 'load', s: 0, at: 0, n: Number.MAX_SAFE_INTEGER, x: 0 };
  const dirty = (): string | undefined => subject.model.wrongDirty(subject.segment.dirty());
  let wrong = (await subject.settle()) ?? (await within(load(subject, all), 'load')) ?? (await subject.settle());
  wrong ??= everything(subject) ?? (await subject.settle()) ?? subject.counts() ?? dirty();
  while (wrong === undefined && subject.pins.length > 0) wrong = unpin(subject, 0);
  wrong ??= await within(flush(subject, { ...all, do: 'flush' }), 'flush');
  wrong ??= (await subject.settle()) ?? dirty() ?? subject.model.wrongStore() ?? subject.counts();
  if (wrong === undefined && subject.segment.dirty().length > 0) wrong = 'there are dirty pages after a flush of all';
  wrong ??=
    turnOver(subject) ??
    (await subject.settle()) ??
    everything(subject) ??
    subject.withinBudget() ??
    (await subject.settle());
  if (wrong !== undefined) return wrong;
  subject.segment.release();
  const left = [...subject.presence()].findIndex(
    (state, page) => state !== PAGE_STATE.absent && page < subject.ledger.storePages,
  );
  if (left >= 0)
    return `page ${left} stays in state ${subject.presence()[left]} after everything was flushed and released`;
  return subject.counts() ?? everything(subject);
}

async function closeAll(of: Case, subjects: readonly Subject[]): Promise<void> {
  const closings = of.threads.map((_, i) => crew.tell(i, { type: 'close' }));
  for (const wrong of await Promise.all(closings))
    if (wrong !== undefined) throw new Error(`closing in a thread: ${wrong}`);
  for (const subject of subjects) {
    const wrong = await subject.close(false);
    if (wrong !== undefined) throw new Error(`closing: ${wrong}`);
  }
}

/** Runs the case; throws an Error that says what is wrong. */
export async function runCase(of: Case): Promise<void> {
  const shared = of.segments.some(({ resident }) => resident === 'shared') ? makeBudget(of.budget) : undefined;
  const subjects = of.segments.map((plan, i) => new Subject(plan, of, i, shared));
  for (const subject of subjects) subject.peers = subjects;
  try {
    for (const subject of subjects) await subject.open();
    await (of.threads.length > 0 ? together(of, subjects) : alone(of, subjects));
    for (const subject of subjects) {
      const wrong = (await finish(subject)) ?? subject.broken();
      if (wrong !== undefined) throw new Error(wrong);
    }
    await closeAll(of, subjects);
    // What a pager was about to do when the segment was closed may take a moment.
    for (let i = 0; i < 2000 && shared !== undefined && shared.used !== 0; i++) await sleep(10);
    if (shared !== undefined && shared.used !== 0) throw new Error(`${shared.used} bytes stay charged after closing`);
  } catch (error) {
    throw error instanceof Error ? error : new Error(describe(error));
  } finally {
    shared?.close();
    for (const subject of subjects) subject.end();
  }
}

export async function endThreads(): Promise<void> {
  await crew.end();
}
