/** Children that exec: they inherit nothing, and start in every way while threads fault and wait. */

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { runNode } from '../helpers/run.js';
import { onEachBackend, patternBytes, patternFile } from '../helpers/stores.js';

const script = fileURLToPath(new URL('../fixtures/execing.js', import.meta.url));

onEachBackend('children of every kind start while threads fault, and inherit no descriptor', async (backend) => {
  const path = patternFile(64 * 4096);
  writeFileSync(`${path}.other`, patternBytes(64 * 4096));
  const { code, signal, stdout, stderr } = await runNode(script, [backend, path], { timeoutMs: 100_000 });
  assert.equal(code, 0, `${signal} ${stdout} ${stderr}`);
  assert.deepEqual(JSON.parse(stdout), { leaked: [], wrong: [] });
});
