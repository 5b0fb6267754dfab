/** A store that touches memory which its own Worker serves: an error that says so, never a hang. */

import assert from 'node:assert/strict';
import { type Backend, map, type Segment, systemPageSize } from 'pagefault';
import { custom } from 'pagefault/stores';
import type { EntangledOptions } from '../fixtures/entangled.js';
import { patternByte } from '../fixtures/pattern.js';
import { onEachBackend, patternModule } from '../helpers/stores.js';

const PAGE = systemPageSize();
const byteLength = 16 * PAGE;

async function entangled(backend: Backend, how: EntangledOptions['how']): Promise<{ below: Segment; above: Segment }> {
  const below = await map(custom(patternModule, { byteLength }), { backend, shared: true, readahead: 0 });
  const options: EntangledOptions = { byteLength, handle: below.handle, how };
  const ref = custom(new URL('../fixtures/entangled.js', import.meta.url), options);
  const above = await map(ref, { backend, readahead: 0, faultTimeoutMs: 40_000 });
  return { below, above };
}

for (const how of ['raw', 'read'] as const) {
  onEachBackend(
    `a synchronous store that needs a page of its own Worker (${how}) is refused at once`,
    async (backend) => {
      const { below, above } = await entangled(backend, how);
      const start = performance.now();
      assert.throws(() => above.read(2 * PAGE, 1), { name: 'PageError', code: 'ERR_PAGEFAULT_DEADLOCK' });
      assert.throws(() => above.attempt(() => above.view(Uint8Array)[3 * PAGE]), { code: 'ERR_PAGEFAULT_DEADLOCK' });
      assert.ok(performance.now() - start < 20_000);
      assert.equal(below.view(Uint8Array)[2 * PAGE], patternByte(2 * PAGE), 'the other segment is well');
      await above.close();
      await below.close();
    },
  );
}

onEachBackend(
  'a store may use pages of its own Worker that are there, and load those that are not',
  async (backend) => {
    const { below, above } = await entangled(backend, 'load');
    for (const page of [0, 7, 15]) assert.equal(above.view(Uint8Array)[page * PAGE], patternByte(page * PAGE));
    await above.close();
    await below.close();
    const resident = await entangled(backend, 'resident');
    await resident.below.load(0, PAGE);
    assert.equal(resident.above.view(Uint8Array)[5 * PAGE + 3], patternByte(3));
    await resident.above.close();
    await resident.below.close();
  },
);
