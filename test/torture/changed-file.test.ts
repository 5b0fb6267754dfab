/** Files that change under a mapping, while it is read: an error, never zeroes, and never old and new mixed. */

import assert from 'node:assert/strict';
import { renameSync, truncateSync, unlinkSync, writeFileSync } from 'node:fs';
import { type Backend, map, PageError, type Segment } from 'pagefault';
import { file } from 'pagefault/stores';
import { onEachBackend, temporaryPath } from '../helpers/stores.js';

const PAGE = 4096;
const PAGES = 256;
const OLD = 0x11;
const NEW = 0x22;

function filled(byte: number): Uint8Array {
  return new Uint8Array(PAGES * PAGE).fill(byte);
}

/** What comes of reading each page in turn, `change` being called before page 100. */
function scan(segment: Segment, change: () => void, read: (page: number) => number): (number | string)[] {
  const seen = [];
  for (let page = 0; page < PAGES; page++) {
    if (page === 100) change();
    try {
      seen.push(read(page));
    } catch (error) {
      assert.ok(error instanceof PageError, String(error));
      assert.equal(error.page, page);
      seen.push(error.code);
    }
  }
  assert.equal(seen.length, segment.byteLength / PAGE);
  return seen;
}

const changes: [name: string, change: (path: string) => void][] = [
  ['truncated to nothing', (path) => truncateSync(path, 0)],
  ['truncated in the middle of a page', (path) => truncateSync(path, 120 * PAGE + 17)],
  ['rewritten in place', (path) => writeFileSync(path, filled(NEW), { flag: 'r+' })],
  ['truncated and written again', (path) => writeFileSync(path, filled(NEW))],
  [
    'replaced by another one',
    (path) => {
      writeFileSync(`${path}.new`, filled(NEW));
      renameSync(`${path}.new`, path);
    },
  ],
];

const ways: [name: string, (segment: Segment) => (page: number) => number][] = [
  ['read()', (segment) => (page) => segment.read(page * PAGE + 5, 1)[0] ?? -1],
  [
    'a view',
    (segment) => {
      const bytes = segment.view(Uint8Array);
      return (page) => segment.attempt(() => bytes[page * PAGE + 5] ?? -1);
    },
  ],
];

for (const [what, change] of changes) {
  for (const [how, reader] of ways) {
    for (const readahead of [0, 'auto'] as const) {
      const title = `a file ${what} during a scan by ${how} gives old bytes or an error (readahead ${readahead})`;
      onEachBackend(title, (backend) => changed(backend, readahead, change, reader));
    }
  }
}

async function changed(
  backend: Backend,
  readahead: 0 | 'auto',
  change: (path: string) => void,
  reader: (segment: Segment) => (page: number) => number,
): Promise<void> {
  const path = temporaryPath();
  writeFileSync(path, filled(OLD));
  const segment = await map(file(path), { backend, readahead });
  try {
    const seen = scan(segment, () => change(path), reader(segment));
    const other = [...new Set(seen)].filter((byte) => byte !== OLD && byte !== 'ERR_PAGEFAULT_STORE_CHANGED');
    assert.deepEqual(other, []);
    assert.ok(seen.includes('ERR_PAGEFAULT_STORE_CHANGED'), 'the change was not noticed');
    assert.ok(seen.slice(0, 100).every((byte) => byte === OLD));
    assert.equal(seen.at(-1), 'ERR_PAGEFAULT_STORE_CHANGED');
  } finally {
    await segment.close();
  }
}

onEachBackend(
  'after invalidate() the segment shows the file that has taken the place of the old one',
  async (backend) => {
    const path = temporaryPath();
    writeFileSync(path, filled(OLD));
    const segment = await map(file(path), { backend });
    try {
      const reader = (page: number): number => segment.read(page * PAGE + 5, 1)[0] ?? -1;
      writeFileSync(`${path}.new`, filled(NEW));
      scan(segment, () => renameSync(`${path}.new`, path), reader);
      segment.invalidate();
      assert.deepEqual([...new Set(scan(segment, () => {}, reader))], [NEW]);
    } finally {
      await segment.close();
    }
  },
);

onEachBackend('a file that is only unlinked stays what it was', async (backend) => {
  const path = temporaryPath();
  writeFileSync(path, filled(OLD));
  const segment = await map(file(path), { backend });
  try {
    const reader = (page: number): number => segment.read(page * PAGE + 5, 1)[0] ?? -1;
    assert.deepEqual([...new Set(scan(segment, () => unlinkSync(path), reader))], [OLD]);
  } finally {
    await segment.close();
  }
});
