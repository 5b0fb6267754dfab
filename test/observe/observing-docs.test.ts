/** docs/guests/observing.md: its example runs, and it names every metric, every number and every event there is. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { renderMetrics, snapshotOf } from 'pagefault/observe';
import { FakeGuest, NUMBERS } from '../helpers/observed.js';
import { parseMetrics } from '../helpers/prometheus.js';
import { root, run } from '../helpers/run.js';

const DOCS = readFileSync(join(root, 'docs/guests/observing.md'), 'utf8');

test('the example runs', { timeout: 60_000 }, async () => {
  const example = /```js\n([\s\S]*?)```/.exec(DOCS)?.[1] ?? assert.fail('no example');
  const program = example.replace("'guests.ndjson'", "'-'").replace('metricsPort: 9090', 'metricsPort: 0');
  assert.notEqual(program, example);
  const { code, stdout, stderr } = await run(process.execPath, ['--input-type=module', '-e', program], {
    timeoutMs: 30_000,
  });
  assert.deepEqual([code, stderr], [0, '']);
  assert.match(stdout, /"event":"serving".*\n.*"event":"closed"/);
});

test('every metric, and every number of events, is in its table, and no other', () => {
  const guest = new FakeGuest(1, 'vm', 100);
  guest.restore = { done: 1, total: 2 };
  const samples = parseMetrics(renderMetrics(snapshotOf({ guests: [guest] })));
  const names = samples.map(({ name }) => name.replace(/^pagefault_(guest_)?/, '').replace(/_(bucket|sum|count)$/, ''));
  const table = DOCS.slice(DOCS.indexOf('## What is told'), DOCS.indexOf('All metrics have the labels'));
  const cells = table.split('\n').map((line) => line.split('|'));
  const inCode = (text: string): string[] => [...text.matchAll(/`(\w+)(?:\{\w+\})?`/g)].map(([, name = '']) => name);
  const told = cells.flatMap(([, , metric = '']) => inCode(metric)).filter((name) => name !== 'pagefault_guest_');
  assert.deepEqual(new Set(told), new Set(names.filter((name) => name !== 'guests')));
  const numbers = new Set(cells.flatMap(([, , , number = '']) => inCode(number)));
  for (const name of [...Object.keys(NUMBERS), 'p50Ns', 'p99Ns', 'restore', 'tid']) assert.ok(numbers.has(name), name);
});

test('every event that is written is in its table, and no other', () => {
  const source = ['observe-server.ts', 'event-log.ts'].map((name) =>
    readFileSync(join(root, 'src/observe', name), 'utf8'),
  );
  const written = source.flatMap((text) =>
    [...text.matchAll(/(?:\.tell\(|event: )'(\w+)'|\? '(\w+)' : '(\w+)'/g)].flatMap(([, ...names]) => names),
  );
  const table = DOCS.slice(DOCS.indexOf('| `event` |'), DOCS.indexOf('The server never waits'));
  const told = table
    .split('\n')
    .slice(2)
    .flatMap((line) => [...(line.split('|')[1] ?? '').matchAll(/`(\w+)`/g)].map(([, name]) => name));
  assert.deepEqual([...new Set(written.filter((name) => name !== undefined))].sort(), told.sort());
});
