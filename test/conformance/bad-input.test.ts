/** Everything that can be wrong with what map() is given: one sentence with a code, and nothing is left behind. */

import assert from 'node:assert/strict';
import { constants } from 'node:buffer';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { type MapOptions, map, PagefaultError, systemPageSize } from 'pagefault';
import { custom, file, memory, type StoreRef, zero } from 'pagefault/stores';
import { native } from '#dist/native/load.js';
import { onEachBackend, patternFile, patternModule, temporaryPath } from '../helpers/stores.js';

const PAGE = systemPageSize();

interface Left {
  descriptors: number;
  threads: number;
  mappings: string[];
  regions: number;
}

function left(): Left {
  return {
    descriptors: readdirSync('/proc/self/fd').length,
    threads: readdirSync('/proc/self/task').length,
    mappings: readFileSync('/proc/self/maps', 'utf8')
      .split('\n')
      .filter((line) => /pagefault|memfd/.test(line)),
    regions: native().census().regions,
  };
}

/** Runs `body` often and checks that nothing grows with the number of times; the last one may still be on its way out. */
async function leavesNothing(body: () => Promise<void>): Promise<void> {
  await body(); // what is made once and kept
  await sleep(700); // an idle Worker ends
  const before = left();
  for (let i = 0; i < 12; i++) await body();
  await sleep(1500);
  const now = left();
  assert.ok(now.descriptors <= before.descriptors + 2, `descriptors: ${before.descriptors} → ${now.descriptors}`);
  assert.ok(now.threads <= before.threads + 2, `threads: ${before.threads} → ${now.threads}`);
  assert.ok(now.mappings.length <= before.mappings.length + 6, `mappings: ${now.mappings.join('\n')}`);
  assert.ok(now.regions <= before.regions + 1, `regions: ${before.regions} → ${now.regions}`);
}

function moduleFile(source: string): string {
  const path = `${temporaryPath()}.mjs`;
  writeFileSync(path, source);
  return path;
}

const store = (fields: string): StoreRef =>
  custom(moduleFile(`export default () => ({ byteLength: 8192, read: (o, into) => into.length, ${fields} })`));

const directory = temporaryPath();
mkdirSync(directory);
const empty = temporaryPath();
writeFileSync(empty, '');
const small = patternFile(10_000);
const pipe = temporaryPath();
execFileSync('mkfifo', [pipe]);

interface Case {
  what: string;
  ref: () => StoreRef;
  options?: MapOptions;
  name: string;
  code: string;
  message: RegExp;
}

const range = { name: 'RangeError', code: 'ERR_PAGEFAULT_OUT_OF_RANGE' };
const unavailable = { name: 'RangeError', code: 'ERR_PAGEFAULT_PAGE_SIZE_UNAVAILABLE' };
const open = { name: 'StoreError', code: 'ERR_PAGEFAULT_STORE_OPEN' };
const module = { name: 'StoreError', code: 'ERR_PAGEFAULT_STORE_MODULE' };
const invalid = { name: 'StoreError', code: 'ERR_PAGEFAULT_STORE_INVALID' };
const blank = { name: 'StoreError', code: 'ERR_PAGEFAULT_STORE_EMPTY' };

const cases: Case[] = [
  { what: 'a file that is not there', ref: () => file('/no/such/file'), ...open, message: /no such file \(ENOENT\)/ },
  { what: 'a path through a file', ref: () => file(`${small}/x`), ...open, message: /no such file \(ENOTDIR\)/ },
  { what: 'a directory', ref: () => file(directory), ...open, message: /it is a directory/ },
  { what: 'a pipe', ref: () => file(pipe), ...open, message: /it is a pipe/ },
  { what: 'a device', ref: () => file('/dev/null'), ...open, message: /it is a device/ },
  { what: 'an empty file', ref: () => file(empty), ...blank, message: /is empty: there is nothing to map/ },
  { what: 'no bytes', ref: () => memory(new Uint8Array(0)), ...blank, message: /^memory\(0 bytes\) is empty/ },
  {
    what: 'an offset past the end',
    ref: () => file(small),
    options: { offset: 10_000 },
    ...range,
    message: /offset 10000 is past the end of file\(.*\), which has 10000 bytes/,
  },
  {
    what: 'a length past the end',
    ref: () => file(small),
    options: { offset: 4000, byteLength: 6001 },
    ...range,
    message: /byteLength 6001 is more than the 6000 bytes .* from offset 4000; pad: true/,
  },
  {
    what: 'a file reference past the end',
    ref: () => file(small, { offset: 9000, byteLength: 1001 }),
    ...range,
    message: /byteLength 1001 is more than the 1000 bytes/,
  },
  {
    what: 'a file reference that begins past the end',
    ref: () => file(small, { offset: 10_001 }),
    ...range,
    message: /offset 10001 is past the end/,
  },
  {
    what: 'a length that the runtime cannot hold',
    ref: () => zero(2 ** 50),
    ...range,
    message: new RegExp(`byteLength ${2 ** 50} is more than the ${Math.min(constants.MAX_LENGTH, 2 ** 45)} bytes`),
  },
  {
    what: 'a page size that is no power of two',
    ref: () => zero(1),
    options: { pageSize: 3 * PAGE },
    ...unavailable,
    message: /power of two/,
  },
  {
    what: 'a page size that is too small',
    ref: () => zero(1),
    options: { pageSize: PAGE / 2 },
    ...unavailable,
    message: /at least the system/,
  },
  {
    what: 'a page size that is too large',
    ref: () => zero(1),
    options: { pageSize: 2 ** 22 },
    ...unavailable,
    message: /at most 2 MiB/,
  },
  {
    what: 'a budget below a page',
    ref: () => zero(1),
    options: { resident: 100 },
    ...range,
    message: /at least one page of 4096 bytes, not 100 bytes/,
  },
  {
    what: 'a store module that is missing',
    ref: () => custom('/no/such/store.js'),
    ...module,
    message: /store module \/no\/such\/store.js does not exist/,
  },
  {
    what: 'a store module that does not parse',
    ref: () => custom(moduleFile('export default {{')),
    ...module,
    message: /cannot be imported/,
  },
  {
    what: 'a store module that throws',
    ref: () => custom(moduleFile('throw new Error("at import")')),
    ...module,
    message: /cannot be imported: at import/,
  },
  {
    what: 'a store module whose import is missing',
    ref: () => custom(moduleFile('import "./not-there.js"')),
    ...module,
    message: /cannot be imported: .*not-there/,
  },
  {
    what: 'a store module that exports nothing',
    ref: () => custom(moduleFile('export const a = 1')),
    ...module,
    message: /has no default export/,
  },
  {
    what: 'a store module that exports an object',
    ref: () => custom(moduleFile('export default { read() {} }')),
    ...module,
    message: /must be a function, not an object/,
  },
  {
    what: 'a store that cannot be opened',
    ref: () => custom(moduleFile('export default async () => { throw new Error("no key") }')),
    ...open,
    message: /could not open its store: no key/,
  },
  {
    what: 'a store that is no object',
    ref: () => custom(moduleFile('export default () => 5')),
    ...invalid,
    message: /returned 5 instead of a store/,
  },
  { what: 'a store without read', ref: () => store('read: undefined'), ...invalid, message: /has no function read/ },
  {
    what: 'a store without a length',
    ref: () => store('byteLength: undefined'),
    ...invalid,
    message: /byteLength .* not undefined/,
  },
  {
    what: 'a store with a negative length',
    ref: () => store('byteLength: -1'),
    ...invalid,
    message: /byteLength .* from 0 to 2\^53 - 1, not -1/,
  },
  { what: 'a store with a fractional length', ref: () => store('byteLength: 1.5'), ...invalid, message: /not 1.5/ },
  { what: 'a store with a length of text', ref: () => store("byteLength: '8192'"), ...invalid, message: /not '8192'/ },
  { what: 'a store with no bytes', ref: () => store('byteLength: 0'), ...blank, message: /^custom\(.*\) is empty/ },
  {
    what: 'a store with a wrong page size',
    ref: () => store('pageSize: 5000'),
    ...unavailable,
    message: /^the store's pageSize must be a power of two, not 5000/,
  },
  {
    what: 'a store with no concurrency',
    ref: () => store('concurrency: 0'),
    ...invalid,
    message: /concurrency .* from 1/,
  },
  {
    what: 'a store that may be asked for no byte at once',
    ref: () => store('longestRead: 0'),
    ...invalid,
    message: /longestRead .* from 1/,
  },
  {
    what: 'a store whose close is no function',
    ref: () => store('close: 1'),
    ...invalid,
    message: /close .* must be a function/,
  },
  {
    what: 'a store whose length throws',
    ref: () => store('get byteLength() { throw new Error("unknown") }'),
    ...invalid,
    message: /cannot be looked at: unknown/,
  },
];

for (const { what, ref, options = {}, name, code, message } of cases) {
  onEachBackend(`${what} is one sentence with a code`, async (backend) => {
    await assert.rejects(map(ref(), { backend, ...options }), (error: Error & { code?: string }) => {
      assert.equal(error.name, name, error.stack);
      assert.equal(error.code, code);
      assert.match(error.message, message);
      assert.doesNotMatch(error.message, /\n/);
      return true;
    });
  });
}

onEachBackend('a file without permission is one sentence with a code', async (backend, t) => {
  if (process.getuid?.() === 0) return t.skip('root may read everything');
  const path = patternFile(100);
  const { chmodSync } = await import('node:fs');
  chmodSync(path, 0o000);
  await assert.rejects(map(file(path), { backend }), {
    code: 'ERR_PAGEFAULT_STORE_OPEN',
    message: /no permission.*\(EACCES\)/,
  });
});

onEachBackend('a file that fails to open tells the errno and the system call', async (backend) => {
  await assert.rejects(map(file('/no/such/file'), { backend }), (error) => {
    assert.ok(error instanceof PagefaultError);
    assert.equal(error.errno, 2);
    assert.equal(error.syscall, 'open');
    assert.equal((error.cause as NodeJS.ErrnoException).code, 'ENOENT');
    return true;
  });
});

onEachBackend(
  'opening that is aborted rejects with the reason and closes the store that comes late',
  async (backend) => {
    const ref = custom(moduleFile('export default () => new Promise(() => {})'));
    const reason = new Error('not any more');
    const abort = new AbortController();
    setTimeout(() => abort.abort(reason), 60);
    await assert.rejects(map(ref, { backend, signal: abort.signal }), reason);
  },
);

onEachBackend(
  'a store whose close throws makes close() reject, and the segment is closed all the same',
  async (backend) => {
    const segment = await map(store('close() { throw new Error("still busy") }'), { backend });
    await assert.rejects(segment.close(), { code: 'ERR_PAGEFAULT_STORE_CLOSE', message: /still busy/ });
    assert.throws(() => segment.stats(), { code: 'ERR_PAGEFAULT_CLOSED' });
  },
);

onEachBackend('a store whose length changes fails its pages', async (backend) => {
  const ref = custom(
    moduleFile(
      'let n = 8192; export default () => ({ get byteLength() { return n }, read(o, into) { n = 4096; return into.length } })',
    ),
  );
  const segment = await map(ref, { backend, readahead: 0 });
  segment.read(0, 1);
  assert.throws(() => segment.read(4096, 1), {
    code: 'ERR_PAGEFAULT_STORE_CHANGED',
    message: /had 8192 bytes .* has 4096 now/,
  });
  await segment.close();
});

onEachBackend('nothing is left of segments that were opened, used and closed', async (backend) => {
  await leavesNothing(async () => {
    for (const ref of [
      file(small),
      memory(new Uint8Array(5 * PAGE)),
      zero(PAGE),
      custom(patternModule, { byteLength: 5 * PAGE }),
    ]) {
      const segment = await map(ref, { backend, resident: '64KiB' });
      assert.equal(segment.read(10, 10).length, 10);
      (await segment.pin(0, 1)).release();
      await segment.close();
    }
  });
});

onEachBackend('nothing is left of what could not be mapped', async (backend) => {
  await leavesNothing(async () => {
    for (const { ref, options = {} } of cases) await assert.rejects(map(ref(), { backend, ...options }));
  });
});

test('the tests above ran', () => {
  assert.ok(cases.length > 30);
});

after(() => {
  // A Worker that hangs in an import must not keep this process.
  setTimeout(() => process.exit(), 5000).unref();
});
