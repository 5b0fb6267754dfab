/** docs/failure.md says of each system call which errnos the tests of the core inject: neither more nor fewer. */

import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { root } from '../helpers/run.js';

/** Errnos by call. */
type Table = Map<string, Set<string>>;

function add(table: Table, call: string, errnos: Iterable<string>): void {
  const known = table.get(call) ?? new Set();
  for (const errno of errnos) known.add(errno);
  table.set(call, known);
}

function sorted(table: Table): Record<string, string[]> {
  return Object.fromEntries([...table].sort().map(([call, errnos]) => [call, [...errnos].sort()]));
}

function injected(): Table {
  const table: Table = new Map();
  const folder = join(root, 'native', 'test');
  for (const name of readdirSync(folder).filter((file) => file.endsWith('injection_test.c'))) {
    const text = readFileSync(join(folder, name), 'utf8');
    for (const [, call = '', errnos = ''] of text.matchAll(/\[\w+\] = \{"(\w+)", \{([^}]*)\}\}/g)) {
      add(table, call, errnos.match(/\bE[A-Z]+\b/g) ?? []);
    }
  }
  return table;
}

function documented(): Table {
  const table: Table = new Map();
  const text = readFileSync(join(root, 'docs', 'failure.md'), 'utf8');
  for (const [, call = '', errnos = ''] of text.matchAll(/^\| `(\w+)` \| ((?:E[A-Z]+ ?)+) \|/gm)) {
    add(table, call, errnos.split(' '));
  }
  return table;
}

test('the table of system calls is that of the tests', () => {
  const tested = sorted(injected());
  assert.ok(Object.keys(tested).length > 25);
  assert.deepEqual(sorted(documented()), tested);
});
