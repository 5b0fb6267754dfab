/** docs/with-libraries.md says what libraries do with a view; here they do it. */
import assert from 'node:assert/strict';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { map, PagefaultError, type Segment } from 'pagefault';
import { file, memory } from 'pagefault/stores';
import { root, runNode } from '../helpers/run.js';

test('what libraries do is what the table says, every row of it', async () => {
  const { code, stdout, stderr } = await runNode(join('examples', 'libraries.js'));
  assert.equal(code, 0, stderr);
  assert.equal(stderr, '');
  const page = readFileSync(join(root, 'docs', 'with-libraries.md'), 'utf8');
  const promised = [...page.matchAll(/^\| .* \| (in place|copies), reads (all|a part|almost nothing) \|$/gm)].map(
    ([row]) => row,
  );
  const expected = stdout.includes('node:sqlite') ? promised : promised.filter((row) => !row.includes('node:sqlite'));
  assert.deepEqual(stdout.trimEnd().split('\n'), expected);
  assert.ok(expected.length >= 10);
});

test('a view is as long as its store, and a shared buffer may be longer, with zeroes at the end', async () => {
  for (const shared of [false, true]) {
    const segment = await map(memory(new Uint8Array(5000).fill(7)), { shared });
    try {
      assert.equal(segment.view(Uint8Array).length, 5000);
      const rest = new Uint8Array(segment.buffer).subarray(5000);
      assert.ok(rest.length === 0 || (shared && rest.length === 65_536 - 5000), `${rest.length}`);
      assert.ok(rest.every((byte) => byte === 0));
    } finally {
      await segment.close();
    }
  }
});

const skip = process.arch === 'x64' ? false : 'attempt() of raw touches needs x64';

/** What is used here of the libraries, whose own types bring another version of Node's. */
interface Libraries {
  arrow: { tableFromIPC(view: Uint8Array): { getChild(name: string): { get(row: number): unknown } } };
  flatbush: {
    default: { from(buffer: ArrayBufferLike): { neighbors(x: number, y: number, count: number): number[] } };
  };
  files: { arrowFile: Uint8Array; treeFile: Uint8Array };
}

async function load(): Promise<Libraries> {
  const [arrow, flatbush, files] = await Promise.all(
    ['apache-arrow', 'flatbush', pathToFileURL(join(root, 'examples', 'libraries', 'files.js')).href].map(
      (name) => import(name) as Promise<unknown>,
    ),
  );
  return { arrow, flatbush, files } as Libraries;
}

test('in attempt() a page that a library cannot have is a PageError, whatever it makes of the zeroes', {
  skip,
}, async () => {
  const { arrow, flatbush, files } = await load();
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-libraries-'));
  const path = join(folder, 'data');
  const uses: [Uint8Array, (segment: Segment) => () => unknown][] = [
    [
      files.arrowFile,
      (segment) => {
        const table = arrow.tableFromIPC(segment.view(Uint8Array));
        return () => table.getChild('numbers').get(131_071);
      },
    ],
    [
      files.treeFile,
      (segment) => {
        const index = flatbush.default.from(segment.buffer);
        return () => index.neighbors(1000, 0, 1);
      },
    ],
  ];
  const changed = (error: unknown): boolean =>
    error instanceof PagefaultError && error.code === 'ERR_PAGEFAULT_STORE_CHANGED';
  try {
    for (const [bytes, open] of uses) {
      for (const opened of [true, false]) {
        writeFileSync(path, bytes);
        const segment = await map(file(path), { readahead: 0 });
        try {
          const use = opened ? open(segment) : () => open(segment)();
          appendFileSync(path, 'x'); // from here on the pages that are not here yet cannot be had
          assert.throws(() => segment.attempt(use), changed);
        } finally {
          await segment.close();
        }
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
