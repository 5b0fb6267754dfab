/**
 * Every way to end at every moment, on every backend: the code or the signal that the process would have without us, no wrong byte, soon, and a line on stderr about
 * what was not flushed wherever JavaScript runs at the end. The table is in test/fixtures/endings-table.ts.
 *
 * By default a share in which each ending and each moment occurs; PAGEFAULT_ENDINGS=all runs all of them, in a few minutes, PAGEFAULT_ENDINGS=thread (or another
 * backend) all of that backend.
 */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Backend } from 'pagefault';
import { type Ending, endings, goTogether, type Moment, moments, tableOfEndings } from '../fixtures/endings-table.js';
import { root, runNode } from '../helpers/run.js';
import { backends } from '../helpers/stores.js';

const script = fileURLToPath(new URL('../fixtures/ending-at.js', import.meta.url));
const WHICH = process.env['PAGEFAULT_ENDINGS'] ?? 'a share';
const AT_ONCE = 3;
/** A process that has not ended by then hangs: its pages would come after 100 seconds, if at all. */
const HANG_MS = 60_000;

interface Case {
  backend: Backend;
  moment: Moment;
  ending: Ending;
}

const everything: Case[] = moments.flatMap((moment) =>
  endings
    .filter((ending) => goTogether(moment, ending))
    .flatMap((ending) => backends.map((backend) => ({ backend, moment, ending }))),
);

/** Each moment with two endings and each ending with two moments, over all backends. */
function share(): Case[] {
  const chosen = new Set<Case>();
  const pick = (among: Case[], turn: number): void => {
    const left = among.filter((one) => !chosen.has(one));
    const one = left[(turn * 7) % left.length];
    if (one !== undefined) chosen.add(one);
  };
  for (const [i, moment] of moments.entries()) {
    pick(
      everything.filter((one) => one.moment === moment),
      i,
    );
  }
  for (const [i, ending] of endings.entries()) {
    pick(
      everything.filter((one) => one.ending === ending),
      i + 5,
    );
  }
  return [...chosen];
}

function wanted(): Case[] {
  const all = everything.filter(({ backend }) => WHICH === 'all' || WHICH === backend);
  return all.length > 0 ? all : share();
}

async function check({ backend, moment, ending }: Case): Promise<void> {
  const { code, signal, stdout, stderr } = await runNode(script, [backend, moment.name, ending.name], {
    timeoutMs: HANG_MS,
    onSpawn: (child) => {
      child.stdout?.once('data', () => {
        if (ending.sent !== undefined) setTimeout(() => child.kill(ending.sent), 50);
      });
    },
  });
  const text = `${ending.name}, at: ${moment.name} [${backend}]: code ${code}, signal ${signal}\n${stdout}${stderr}`;
  assert.match(stdout, /^ready/, text);
  assert.equal(signal ?? code, ending.ends, text);
  assert.doesNotMatch(stderr, /WRONG/, text);
  const told = /segment "the one" was not closed: \d+ bytes/.test(stderr);
  assert.equal(told, ending.tells && moment.unflushed, text);
  if (ending.name.startsWith('a listener')) assert.match(stderr, /the listener is through/, text);
}

test(`processes end as they should, whatever their threads are at (${WHICH})`, async (t) => {
  const left = wanted();
  const failed: string[] = [];
  t.diagnostic(`${left.length} of ${everything.length}`);
  const lane = async (): Promise<void> => {
    for (let one = left.pop(); one !== undefined; one = left.pop()) {
      await check(one).catch((error: Error) => failed.push(error.message));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  assert.equal(failed.length, 0, failed.join('\n------\n'));
});

test('docs/endings.md shows the table of these tests', () => {
  const text = readFileSync(join(root, 'docs', 'endings.md'), 'utf8');
  assert.ok(text.includes(tableOfEndings()), `the table should be:\n${tableOfEndings()}`);
  for (const { name } of moments)
    assert.ok(text.includes(name.split(',')[0] ?? name), `docs/endings.md does not mention: ${name}`);
});
