/** Budgets: the bound is hard, and what is dropped comes back. On every backend, with every kind of store. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { budget, map, type Segment, systemPageSize } from 'pagefault';
import { file } from 'pagefault/stores';
import { patternByte } from '../fixtures/pattern.js';
import { firstDifference, knownStore, onEachBackend, onEachStore, patternFile } from '../helpers/stores.js';

const PAGE = systemPageSize();

/** Bytes of the segment's mapping that are in memory, by the kernel's own count. */
function residentBySmaps(segment: Segment): number {
  const begin = segment.address;
  const end = begin + BigInt(segment.byteLength);
  let inside = false;
  let total = 0;
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    const [, from, to] = /^([0-9a-f]+)-([0-9a-f]+) /.exec(line) ?? [];
    if (from !== undefined && to !== undefined) inside = BigInt(`0x${from}`) < end && BigInt(`0x${to}`) > begin;
    else if (inside && line.startsWith('Rss:')) total += Number(/\d+/.exec(line)?.[0]) * 1024;
  }
  return total;
}

onEachStore('a segment larger than its budget reads right and never holds more', async (backend, kind) => {
  const pages = 256;
  const limit = 32 * PAGE;
  const { ref, byte } = knownStore(kind, pages * PAGE);
  const segment = await map(ref, { backend, resident: limit });
  try {
    const bytes = segment.view(Uint8Array);
    for (let round = 0; round < 2; round++) {
      for (let page = 0; page < pages; page++) {
        const at = page * PAGE + ((page * 31) % PAGE);
        assert.equal(bytes[at], byte(at), `round ${round}, page ${page}`);
        const { budgetBytes, residentBytes } = segment.stats();
        assert.ok(budgetBytes <= limit, `${budgetBytes} charged`);
        assert.ok(residentBytes <= limit, `${residentBytes} resident`);
      }
    }
    for (let i = 0, page = 3; i < 400; i++, page = (page * 181 + 59) % pages) {
      assert.equal(bytes[page * PAGE + i], byte(page * PAGE + i));
    }
    assert.ok(residentBySmaps(segment) <= limit, `${residentBySmaps(segment)} by smaps`);
    assert.ok(segment.stats().evictions > pages - 32);
    assert.equal(segment.stats().budgetLimit, limit);
  } finally {
    await segment.close();
  }
});

onEachBackend('several segments share one budget, and it goes back when they close', async (backend) => {
  const shared = budget('256KiB');
  assert.equal(shared.limit, 2 ** 18);
  const path = patternFile(2 ** 19);
  const segments = [
    await map(file(path), { backend, resident: shared }),
    await map(file(path), { backend, resident: shared }),
    await map(file(path), { backend, resident: shared, pageSize: 4 * PAGE }),
  ];
  for (let i = 0; i < 2 ** 19; i += PAGE) {
    for (const segment of segments) assert.equal(segment.view(Uint8Array)[i], patternByte(i));
    const { used, resident, staged, limit } = shared.stats();
    assert.ok(used <= limit && resident + staged <= used, JSON.stringify(shared.stats()));
    assert.ok(segments.reduce((sum, segment) => sum + segment.stats().residentBytes, 0) <= limit);
  }
  for (const segment of segments) await segment.close();
  assert.equal(shared.used, 0);
  shared.close();
  shared.close();
  await assert.rejects(map(file(path), { backend, resident: shared }), {
    name: 'TypeError',
    message: /budget is closed/,
  });
});

onEachBackend(
  'pinned pages stay within the budget, and a page for which there is no room is an error',
  async (backend) => {
    const segment = await map(file(patternFile(64 * PAGE)), {
      backend,
      resident: 16 * PAGE,
      faultTimeoutMs: 400,
      readahead: 0,
    });
    try {
      const pin = await segment.pin(0, 6 * PAGE);
      const bytes = segment.view(Uint8Array);
      for (let i = 0; i < 64 * PAGE; i += PAGE) assert.equal(bytes[i], patternByte(i));
      assert.equal(firstDifference(pin.bytes, 0, patternByte), -1);
      assert.ok(segment.stats().residentBytes <= 16 * PAGE);
      await assert.rejects(segment.pin(10 * PAGE, 11 * PAGE), { code: 'ERR_PAGEFAULT_BUDGET' });
      assert.equal(segment.stats().pinnedPages, 6);
      pin.release();
      (await segment.pin(10 * PAGE, 11 * PAGE)).release();
    } finally {
      await segment.close();
    }
  },
);

onEachBackend('a budget below one page is refused, and one below four counts as four', async (backend) => {
  const path = patternFile(32 * PAGE);
  await assert.rejects(map(file(path), { backend, resident: PAGE - 1 }), { name: 'RangeError', message: /one page/ });
  await assert.rejects(map(file(path), { backend, resident: budget(PAGE), pageSize: 2 * PAGE }), {
    name: 'RangeError',
  });
  const segment = await map(file(path), { backend, resident: PAGE });
  assert.equal(firstDifference(segment.view(Uint8Array), 0, patternByte), -1);
  assert.ok(segment.stats().residentBytes <= 4 * PAGE);
  await segment.close();
});
