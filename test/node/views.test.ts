/** What Node does with views of a segment: each cell of the table in docs/limits.md, on every backend. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import { Worker } from 'node:worker_threads';
import { type Backend, map, type Segment } from 'pagefault';
import { custom, memory } from 'pagefault/stores';
import { PAGE_STATE } from '#dist/native/binding.js';
import { Control } from '../fixtures/keeping.js';
import { until } from '../helpers/descriptors.js';
import { root } from '../helpers/run.js';
import { backends, onEachBackend, patternBytes } from '../helpers/stores.js';
import {
  asMarkdown,
  expected,
  type Outcome,
  ROWS,
  type Row,
  SITUATIONS,
  type Situation,
  TERMINATE,
} from '../helpers/view-table.js';
import { keepingModule, PAGE, tracksByFaults, writableBackends } from '../helpers/writable.js';
import type { Call } from './calls/call.js';
import { WASM, wasmModule } from './calls/computing.js';

const PAGES = 16;
/** Where the view is. */
const FIRST = 4;
const COUNT = 3;

function contents(call: Call): Uint8Array {
  return WASM.includes(call) ? wasmModule(COUNT * PAGE) : patternBytes(COUNT * PAGE);
}

interface Given {
  segment: Segment;
  view: Uint8Array<ArrayBuffer>;
  /** The same bytes in ordinary memory. */
  plain: Uint8Array<ArrayBuffer>;
}

async function give(call: Call, backend: Backend, situation: Situation): Promise<Given> {
  const plain = new Uint8Array(contents(call));
  const store = new Uint8Array(new SharedArrayBuffer(PAGES * PAGE));
  store.set(plain, FIRST * PAGE);
  const writable = call.fills !== undefined;
  const segment = await map(memory(store), { backend, readahead: 0, writable, shared: situation === 'shared' });
  if (situation === 'pinned') await segment.pin(FIRST * PAGE, COUNT * PAGE);
  return { segment, view: segment.view(Uint8Array, FIRST * PAGE, COUNT * PAGE) as Uint8Array<ArrayBuffer>, plain };
}

interface Failure {
  name: string;
  code?: unknown;
  message: string;
  cause?: { code?: unknown };
}

/** The word for what was thrown. Throws it where there is none. */
function thrown(error: Failure): Outcome {
  if (error.code === 'EFAULT' || error.cause?.code === 'EFAULT') return 'EFAULT';
  if (error.message === 'lost without an error') return 'lost without an error';
  if (error.name === 'TypeError' || error.name === 'DataCloneError') return 'refuses';
  throw error;
}

/** Bytes are not shown: that can take minutes. */
function same(got: unknown, wanted: unknown): boolean {
  if (!(got instanceof Uint8Array && wanted instanceof Uint8Array)) return isDeepStrictEqual(got, wanted);
  return Buffer.compare(got, wanted) === 0;
}

/** Runs it with the view and with ordinary memory, and says in a word what became of it. */
async function run(call: Call, { segment, view, plain }: Given, situation: Situation): Promise<Outcome> {
  const text = Buffer.from(String(plain));
  const wanted = call.fills === 'random' ? undefined : await call.act(plain);
  let result: unknown;
  try {
    result = await call.act(view);
  } catch (error) {
    return thrown(error as Failure);
  }
  const residentPages = segment.pages().filter((state) => (state & 7) === PAGE_STATE.present).length;
  if (view.length === 0) return 'takes the buffer';
  if (same(result, text)) return 'gives its text';
  if (call.fills === undefined) assert.ok(same(result, wanted), 'what it gives');
  else assert.equal(same(view, plain), call.fills === 'same', 'what it has filled');
  if (call.fills !== undefined) assert.ok(segment.dirty().length > 0, 'and the segment knows of it');
  if (residentPages === PAGES) return 'copies everything';
  assert.ok(residentPages <= COUNT, `${residentPages} pages were brought in`);
  const isView = result instanceof Uint8Array && result.buffer instanceof SharedArrayBuffer;
  const another = situation === 'shared' && (isView || call.name === '`workerData`');
  return another ? 'shares it' : 'works';
}

async function check(row: Row, call: Call, backend: Backend, situation: Situation): Promise<void> {
  const given = await give(call, backend, situation);
  const { segment, view } = given;
  try {
    let wanted = expected(row[situation], backend);
    const byFaults = call.fills !== undefined && tracksByFaults(segment) && row.missing === 'EFAULT';
    if (byFaults && situation === 'pinned' && wanted === 'works' && backend !== ('thread' as string))
      wanted = 'EFAULT until written';
    const outcome = await run(call, given, situation);
    if (wanted !== 'EFAULT until written') {
      assert.equal(outcome, wanted);
      return;
    }
    assert.equal(outcome, 'EFAULT');
    for (let page = 0; page < COUNT; page++) view[page * PAGE] = view[page * PAGE] ?? 0;
    assert.equal(await run(call, given, situation), 'works');
  } finally {
    await segment.close({ discard: true });
  }
}

for (const row of ROWS) {
  for (const call of row.calls) {
    for (const situation of SITUATIONS) {
      for (const backend of call.fills === undefined ? backends : writableBackends) {
        const wanted = expected(row[situation], backend);
        test(`${call.name}, ${situation}: ${wanted} [${backend}]`, { timeout: 60_000 }, () =>
          check(row, call, backend, situation),
        );
      }
    }
  }
}

onEachBackend(`${TERMINATE}: waits for the page, and works where it is pinned`, async (backend) => {
  const control = new Control();
  const options = { bytes: new SharedArrayBuffer(2 * PAGE), control: control.words.buffer };
  const segment = await map(custom(keepingModule, options), { backend, shared: true, readahead: 0 });
  const script = new URL('../fixtures/stopped.js', import.meta.url);
  control.set('read', 'hold');
  const stopped = new Worker(script, { workerData: segment.handle });
  await until(() => control.get('read', 'calls') === 1, 60_000);
  let ended = false;
  const ending = stopped.terminate().then(() => {
    ended = true;
  });
  for (let turn = 0; turn < 50; turn++) await new Promise(setImmediate);
  assert.equal(ended, false);
  control.put('read', 'go', 1);
  await ending;
  const pin = await segment.pin(0, PAGE);
  const other = new Worker(script, { workerData: segment.handle });
  assert.deepEqual(await once(other, 'message'), [0]);
  await other.terminate();
  pin.release();
  await segment.close();
});

test('docs/limits.md shows the table of these tests', () => {
  const page = readFileSync(join(root, 'docs', 'limits.md'), 'utf8');
  assert.ok(page.includes(asMarkdown()), `the table must be:\n${asMarkdown()}`);
});
