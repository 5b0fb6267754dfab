/** A pager that is killed takes its children with it, and none of them sees a byte that is neither the store's nor its own. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { until } from '../helpers/descriptors.js';
import { guestProgram } from '../helpers/guest-program.js';
import { runNode } from '../helpers/run.js';

const pager = fileURLToPath(new URL('../fixtures/dying-pager.js', import.meta.url));

test('children of a pager that is killed die within a second, and saw nothing wrong', {
  timeout: 90_000,
}, async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-dying-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  for (let i = 0; i < 16; i++) {
    const output = join(folder, `output-${i}`);
    const ran = await runNode(pager, [guestProgram(), output, i % 2 === 0 ? 'budget' : 'on-demand'], {
      timeoutMs: 20_000,
      onSpawn: (parent) => {
        parent.stdout?.once('data', async () => {
          await sleep(Math.random() * 60);
          parent.kill('SIGKILL');
        });
      },
    });
    assert.equal(ran.signal, 'SIGKILL', ran.stderr);
    const pid = Number(ran.stdout);
    await until(
      () => !existsSync(`/proc/${pid}`) || /^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8')),
      1000,
    );
    assert.equal(readFileSync(output, 'utf8'), '');
  }
});
