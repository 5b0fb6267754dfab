/** What each operation does to a page in each state: each cell of the table in docs/segment.md, on every backend. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Backend, Pin, Segment } from 'pagefault';
import { PAGE_PINNED, PAGE_STATE } from '#dist/native/binding.js';
import { asMarkdown, CELLS, OPERATIONS, type Operation, type PageState, STATES } from '../helpers/page-table.js';
import { root } from '../helpers/run.js';
import { patternBytes } from '../helpers/stores.js';
import { PAGE, type WritableKind, type Written, writable, writableBackends } from '../helpers/writable.js';

/** The page is page 0; with a budget the others push it out. */
const PAGES = 64;
const ROOM = 16;
/** So many pages are staged before one is dropped. */
const STAGED = 4;
/** Of the page: what the store has, what a modified page has, what an operation writes. */
const AT = 5;
const STORED = patternBytes(PAGE)[AT] ?? 0;
const MODIFIED = STORED ^ 0xff;
const NEXT = 6;
const WROTE = 0xa7;

/** These keep the thread until the page is there. */
const BLOCKING: readonly Operation[] = ['read through a view', 'write through a view', '`read`', '`write`'];

interface Before extends Written {
  state: PageState;
  pin: Pin | undefined;
  /** Touches of other pages so far. */
  pushed: number;
  /** A load that is under way. */
  loading: Promise<void> | undefined;
}

interface After {
  error: { code?: string } | undefined;
  pin?: Pin | undefined;
}

const isModified = (state: PageState): boolean => state.endsWith('modified');

function stateOf(segment: Segment): string {
  const byte = segment.pages(0, 1)[0] ?? 0;
  return Object.entries(PAGE_STATE).find(([, number]) => number === (byte & 7))?.[0] ?? `${byte}`;
}

function dirty(segment: Segment): boolean {
  return segment.dirty(0, PAGE).length > 0;
}

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 20_000 && !condition(); i++) await sleep(1);
  assert.ok(condition(), String(condition));
}

/** Touches the other pages, one after the other, until something is so. */
async function push(before: Before, until: () => boolean): Promise<void> {
  let sum = 0;
  for (let i = 0; i < 400 && !until(); i++) {
    sum += before.bytes[(1 + (before.pushed++ % (PAGES - 1))) * PAGE] ?? 0;
    if (i % 32 === 31) await sleep(1); // what is being written goes when it is written
  }
  assert.ok(sum >= 0 && until(), String(until));
}

/** A segment whose page 0 is in the state. */
async function enter(backend: Backend, kind: WritableKind, state: PageState, budget: boolean): Promise<Before> {
  const staged = state.startsWith('staged');
  const options = { faultTimeoutMs: 5000, ...(staged || budget ? { resident: ROOM * PAGE } : {}) };
  const written = await writable(backend, kind, PAGES * PAGE, options, staged ? { readMicroseconds: 200 } : {});
  const { segment, bytes, control } = written;
  const before: Before = { ...written, state, pin: undefined, pushed: 0, loading: undefined };
  if (state === 'absent') return before;
  if (state === 'loading') {
    control.set('read', 'hold');
    before.loading = segment.load(0, PAGE);
    before.loading.catch(() => {});
    await until(() => control.get('read', 'calls') === 1);
    return before;
  }
  if (state === 'failed') {
    control.set('read', 'permanent');
    await assert.rejects(segment.load(0, PAGE));
    control.set('read', 'well');
    return before;
  }
  // The first pages to go are dropped at once: page 0 is not one of them.
  if (staged) await push(before, () => segment.stats().stagedBytes >= STAGED * PAGE);
  await segment.load(0, PAGE);
  if (state.startsWith('pinned')) before.pin = await segment.pin(0, PAGE);
  if (isModified(state)) bytes[AT] = MODIFIED;
  if (staged) await push(before, () => stateOf(segment) === 'staged');
  return before;
}

/** The operation, and what it threw. */
async function act(operation: Operation, { segment, bytes }: Before): Promise<After> {
  try {
    switch (operation) {
      case 'read through a view':
        segment.attempt(() => bytes[AT]);
        break;
      case 'write through a view':
        segment.attempt(() => {
          bytes[NEXT] = WROTE;
        });
        break;
      case '`read`':
        segment.read(AT, 1);
        break;
      case '`write`':
        segment.write(NEXT, Uint8Array.of(WROTE));
        break;
      case '`load`':
        await segment.load(0, PAGE);
        break;
      case '`pin`':
        return { error: undefined, pin: await segment.pin(0, PAGE) };
      case '`release`':
        segment.release(0, PAGE);
        break;
      case '`invalidate`':
        segment.invalidate(0, PAGE);
        break;
      case '`discard`':
        segment.discard(0, PAGE);
        break;
      case '`flush`':
        await segment.flush(0, PAGE);
        break;
      case '`resetWriteDetection`':
        segment.resetWriteDetection(0, PAGE);
        break;
      case 'eviction for the budget':
      case '`close`':
        throw new Error('unreachable');
    }
    return { error: undefined };
  } catch (error) {
    return { error: error as { code?: string } };
  }
}

interface Wanted {
  /** The state afterwards; undefined: as before. */
  state?: string;
  modified?: boolean;
  /** Of the store, by the operation. */
  reads?: number;
  writes?: number;
  throws?: boolean;
  pins?: boolean;
  /** It goes with its pin. */
  goes?: boolean;
  /** The next write is seen again. */
  seen?: boolean;
}

const back = { state: 'present' };

/** What the words of the table mean. */
const MEANING: Readonly<Record<string, Wanted>> = {
  nothing: {},
  reads: {},
  copies: {},
  loads: { state: 'present', reads: 1 },
  'loads, modified': { state: 'present', reads: 1, modified: true },
  'loads, pins': { state: 'present', reads: 1, pins: true },
  '**loads again**; throws if it fails again': { state: 'present', reads: 1 },
  'loads again, pins; throws if it fails again': { state: 'present', reads: 1, pins: true },
  waits: { state: 'present' },
  'waits, modified': { state: 'present', modified: true },
  'waits, pins': { state: 'present', pins: true },
  modified: { modified: true },
  'stays modified': { modified: true },
  'taken back': back,
  'taken back, modified': { ...back, modified: true },
  'taken back, pins': { ...back, pins: true },
  'taken back, written': { ...back, modified: false, writes: 1 },
  throws: { throws: true },
  'ends the process; in `attempt` throws': { throws: true },
  pins: { pins: true },
  'one more pin': { pins: true },
  absent: { state: 'absent', modified: false },
  'absent: the next touch tries again': { state: 'absent', modified: false },
  'absent once it is unpinned': { modified: false, goes: true },
  'is read again before anyone sees it': { reads: 1 },
  written: { modified: false, writes: 1 },
  'its next write is seen again': { seen: true },
};

function checkContents(operation: Operation, before: Before, wanted: Wanted, state: string): void {
  const { segment, bytes } = before;
  const wrote = operation === 'write through a view' || operation === '`write`';
  const kept = isModified(before.state) && wanted.state !== 'absent';
  if (state === 'failed') {
    assert.throws(() => segment.read(AT, 1), { name: 'PageError' });
    return;
  }
  assert.equal(bytes[AT], kept ? MODIFIED : STORED);
  assert.equal(bytes[NEXT], wrote && wanted.throws !== true ? WROTE : patternBytes(PAGE)[NEXT]);
}

async function checkUnpinned(before: Before, after: After): Promise<void> {
  const { segment, bytes } = before;
  after.pin?.release();
  before.pin?.release();
  assert.equal((segment.pages(0, 1)[0] ?? 0) & PAGE_PINNED, 0);
  await until(() => stateOf(segment) === 'absent');
  assert.equal(dirty(segment), false);
  assert.equal(bytes[AT], STORED, 'what the store has');
}

/** A cell of the table, but for those of eviction and close. */
async function check(operation: Operation, cell: string, before: Before): Promise<void> {
  const wanted = MEANING[cell];
  assert.ok(wanted !== undefined, `the words "${cell}" have no meaning here`);
  const { segment, bytes, control } = before;
  const first = stateOf(segment);
  const reads = control.get('read', 'calls');
  const writes = control.get('write', 'calls');
  if (BLOCKING.includes(operation)) control.put('read', 'go', 1);
  const acting = act(operation, before);
  control.put('read', 'go', 1);
  const after = await acting;
  await before.loading;
  assert.equal(after.error !== undefined, wanted.throws === true, String(after.error));
  const state = stateOf(segment);
  assert.equal(state, wanted.state ?? (first === 'loading' ? 'present' : first));
  assert.equal(dirty(segment), wanted.modified ?? isModified(before.state));
  assert.equal(control.get('read', 'calls') - reads, wanted.reads ?? 0, 'reads of the store');
  assert.equal(control.get('write', 'calls') - writes, wanted.writes ?? 0, 'writes to the store');
  const pinned = before.pin !== undefined || wanted.pins === true;
  assert.equal(((segment.pages(0, 1)[0] ?? 0) & PAGE_PINNED) !== 0, pinned, 'pinned');
  if (wanted.pins === true && before.pin !== undefined) {
    after.pin?.release();
    assert.ok((segment.pages(0, 1)[0] ?? 0) & PAGE_PINNED, 'the other pin stays');
  }
  if (wanted.writes !== undefined) assert.equal(before.contents()[AT], MODIFIED);
  if (wanted.goes === true) return await checkUnpinned(before, after);
  checkContents(operation, before, wanted, state);
  if (wanted.seen === true) {
    const calls = control.get('onWrite', 'calls');
    const has = segment.backendReason.includes('onWrite');
    bytes[NEXT] = 1;
    assert.equal(control.get('onWrite', 'calls') - calls, has ? 1 : 0);
    assert.ok(dirty(segment));
  }
}

async function checkEviction(cell: string, before: Before): Promise<void> {
  const { segment, bytes, contents, state } = before;
  if (cell === 'never') {
    let sum = 0;
    for (let i = 0; i < 3 * PAGES; i++) sum += bytes[(1 + (i % (PAGES - 1))) * PAGE] ?? 0;
    assert.ok(sum >= 0);
    assert.equal(stateOf(segment), 'present');
    assert.equal(dirty(segment), isModified(state));
  } else {
    await push(before, () => stateOf(segment) === 'absent');
    assert.equal(dirty(segment), false, 'an absent page is not modified');
    assert.equal(contents()[AT], isModified(state) ? MODIFIED : STORED);
  }
  assert.equal(bytes[AT], isModified(state) ? MODIFIED : STORED);
}

async function checkClose(cell: string, before: Before): Promise<void> {
  const { segment, contents, control, state, loading } = before;
  const writes = control.get('write', 'calls');
  const waits = loading === undefined ? undefined : assert.rejects(loading, { code: 'ERR_PAGEFAULT_CLOSED' });
  const closing = segment.close();
  await waits;
  control.put('read', 'go', 1);
  await closing;
  assert.equal(waits !== undefined, cell.startsWith('the wait ends'));
  assert.equal(control.get('write', 'calls') - writes, cell.startsWith('written') ? 1 : 0);
  assert.equal(contents()[AT], isModified(state) ? MODIFIED : STORED);
  assert.throws(() => segment.read(0, 1), { code: 'ERR_PAGEFAULT_CLOSED' });
}

for (const backend of writableBackends) {
  for (const kind of ['custom sync', 'custom onWrite'] as const) {
    for (const operation of OPERATIONS) {
      for (const [i, cell] of CELLS[operation].entries()) {
        const state = STATES[i];
        if (cell === '–' || state === undefined) continue;
        test(`${operation}, page ${state}: ${cell} [${backend}, ${kind}]`, async () => {
          const before = await enter(backend, kind, state, operation.startsWith('eviction'));
          try {
            if (operation === '`close`') await checkClose(cell, before);
            else if (operation === 'eviction for the budget') await checkEviction(cell, before);
            else await check(operation, cell, before);
          } finally {
            await before.segment.close({ discard: true });
          }
        });
      }
    }
  }
}

test('docs/segment.md shows the table of these tests', () => {
  const page = readFileSync(join(root, 'docs', 'segment.md'), 'utf8');
  assert.ok(page.includes(asMarkdown()), `the table must be:\n${asMarkdown()}`);
  for (const operation of OPERATIONS) assert.equal(CELLS[operation].length, STATES.length, operation);
});
