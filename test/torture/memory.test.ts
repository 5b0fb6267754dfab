/** The bound on memory is hard: counted by the kernel, for each mapping and for a whole process. */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { type Backend, map, type Segment } from 'pagefault';
import { native } from '#dist/native/load.js';
import { BUDGET, LENGTH } from '../fixtures/squeezed.js';
import { MemoryGroup, removeGroup } from '../helpers/cgroup.js';
import { type Ran, runNode } from '../helpers/run.js';
import { backends, knownStore, onEachBackend, patternFile, type StoreKind } from '../helpers/stores.js';

const PAGE = 4096;
const squeezed = fileURLToPath(new URL('../fixtures/squeezed.js', import.meta.url));

/** Bytes of memory behind the segment and behind all else that pagefault mapped for pages; what is mapped twice counts once. */
function held(segment: Segment): { bytes: number; ownRss: number } {
  const first = segment.address;
  const end = first + BigInt(segment.byteLength);
  let bytes = 0;
  let ownRss = 0;
  let pages = false;
  let own = false;
  for (const line of readFileSync('/proc/self/smaps', 'utf8').split('\n')) {
    const range = /^([0-9a-f]+)-([0-9a-f]+) (.*)$/.exec(line);
    if (range !== null) {
      const start = BigInt(`0x${range[1]}`);
      own = start >= first && start < end;
      pages = own || /pagefault (staged|scratch)|memfd:/.test(range[3] ?? '');
    } else if (pages) {
      const [, name, kib] = /^(Pss|Rss): +(\d+) kB/.exec(line) ?? [];
      if (name === 'Pss') bytes += Number(kib) * 1024;
      if (name === 'Rss' && own) ownRss += Number(kib) * 1024;
    }
  }
  return { bytes, ownRss };
}

/** Touches all pages in order, then some at random; after every so many looks at what is held. */
function walk(segment: Segment, look: () => void): void {
  const bytes = segment.view(Uint8Array);
  const pages = bytes.length / PAGE;
  let sum = 0;
  for (let page = 0; page < pages; page++) {
    sum += bytes[page * PAGE] ?? 0;
    if (page % 500 === 0) look();
  }
  for (let i = 0; i < pages; i++) {
    sum += bytes[((i * 7919) % pages) * PAGE] ?? 0;
    if (i % 500 === 0) look();
  }
  assert.ok(sum > 0);
}

for (const kind of ['file', 'memory', 'custom sync', 'custom async'] satisfies StoreKind[]) {
  onEachBackend(`pages, staged ones and read buffers stay within the budget (${kind})`, async (backend) => {
    const budget = 2 ** 20;
    const { ref } = knownStore(kind, 8 * budget);
    const segment = await map(ref, { backend, resident: budget });
    try {
      let most = 0;
      let looks = 0;
      walk(segment, () => {
        const { bytes, ownRss } = held(segment);
        const { residentBytes, stagedBytes, budgetBytes } = segment.stats();
        most = Math.max(most, bytes);
        looks += 1;
        assert.ok(budgetBytes <= budget && residentBytes + stagedBytes <= budgetBytes);
        assert.ok(ownRss <= budget, `${ownRss} bytes of the segment are in memory`);
        // Documented beside the budget: the buffers that pages are read into.
        assert.ok(bytes <= budget + 256 * 1024, `${bytes} bytes are held for a budget of ${budget}`);
      });
      assert.ok(looks > 5 && most > budget / 2, `${looks} looks, ${most} bytes at most: nothing was measured`);
    } finally {
      await segment.close();
    }
    // A service thread (backend thread) may still be about to leave it: then the core frees it within a second.
    for (let tries = 0; native().census().regions > 0 && tries < 500; tries++)
      await new Promise((go) => setTimeout(go, 10));
    assert.equal(native().census().regions, 0);
  });
}

let groups = 0;

async function squeeze(backend: Backend, store: string, budget: string, path: string): Promise<Ran | string> {
  groups += 1;
  const group = MemoryGroup.make(`pagefault-test-${process.pid}-${groups}`);
  if (typeof group === 'string') return group;
  try {
    return await runNode(squeezed, [group.path, backend, store, budget, path]);
  } finally {
    await removeGroup(group);
  }
}

const data = patternFile(LENGTH);

for (const backend of backends) {
  for (const store of ['file', 'sync']) {
    test(`a scan of 8 times the budget survives in a cgroup with 8 MiB more than it [${backend}, ${store}]`, async (t) => {
      const ran = await squeeze(backend, store, String(BUDGET), data);
      if (typeof ran === 'string') return t.skip(`no memory cgroup can be made: ${ran}`);
      assert.equal(ran.code, 0, `${ran.signal} ${ran.stderr}`);
      assert.match(ran.stdout, /^survived/);
    });
  }

  test(`without a budget the same scan is killed, so the cgroup does bound it [${backend}]`, async (t) => {
    const ran = await squeeze(backend, 'file', 'none', data);
    if (typeof ran === 'string') return t.skip(`no memory cgroup can be made: ${ran}`);
    // By the kernel, or by our own report that there is no memory for a page.
    assert.notEqual(ran.code, 0, ran.stdout);
    assert.doesNotMatch(ran.stdout, /survived/);
  });
}
