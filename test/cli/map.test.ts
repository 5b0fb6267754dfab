/** `pagefault map`: verifies what it reads, shows it, and says what is wrong. */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { runCli } from '../helpers/run.js';

const folder = mkdtempSync(join(tmpdir(), 'pagefault-cli-'));
after(() => rmSync(folder, { recursive: true }));

const SIZE = 3_000_001;
const bytes = Uint8Array.from({ length: SIZE }, (_, i) => (i * 2_654_435_761) >>> 13);
const path = join(folder, 'data.bin');
writeFileSync(path, bytes);
const sha256 = createHash('sha256').update(bytes).digest('hex');

/** A store module that serves the file, with a defect. */
function store(name: string, body: string): string {
  const module = join(folder, `${name}.js`);
  writeFileSync(
    module,
    `import { openSync, readSync, fstatSync } from 'node:fs';
     export default function open({ path }) {
       const fd = openSync(path, 'r');
       return { byteLength: fstatSync(fd).size, read(offset, into) { ${body} } };
     }`,
  );
  return module;
}
writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
const faithful = store('faithful', 'return readSync(fd, into, 0, into.length, offset);');
const liar = store(
  'liar',
  'const n = readSync(fd, into, 0, into.length, offset); if (offset === 40960) into[7] ^= 1; return n;',
);
const broken = store('broken', "throw Object.assign(new Error('gone fishing'), { permanent: true });");

interface Document {
  byteLength: number;
  pageSize: number;
  backend: string;
  matches: boolean;
  sha256?: { segment: string; file: string };
  firstDifference?: number;
  stats: { faults: number; loads: number; evictions: number; residentBytes: number; readaheadHits: number };
  error?: { code: string; message: string };
}

const BACKENDS = ['signal', 'mprotect'] as const;

for (const backend of BACKENDS) {
  test(`${backend}: seq reads all of it within the budget and verifies the SHA-256`, async () => {
    const { code, stdout, stderr } = await runCli([
      'map',
      path,
      '--json',
      '--resident',
      '256KiB',
      '--backend',
      backend,
    ]);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    const document = JSON.parse(stdout) as Document;
    assert.equal(document.backend, backend);
    assert.equal(document.byteLength, SIZE);
    assert.deepEqual(document.sha256, { segment: sha256, file: sha256 });
    assert.equal(document.stats.loads, Math.ceil(SIZE / document.pageSize));
    assert.ok(document.stats.evictions > 0);
    assert.ok(document.stats.residentBytes <= 2 ** 18);
    assert.ok(document.stats.readaheadHits > 0);
  });

  for (const pattern of ['random', 'zipf']) {
    test(`${backend}: ${pattern} compares each page that it touches`, async () => {
      const args = ['map', path, '--json', '--pattern', pattern, '--touches', '2000', '--resident', '64KiB'];
      const { code, stdout, stderr } = await runCli([...args, '--backend', backend, '--page-size', '8KiB']);
      assert.equal(code, 0, stderr);
      const document = JSON.parse(stdout) as Document;
      assert.equal(document.matches, true);
      assert.equal(document.pageSize, 8192);
      assert.ok(document.stats.faults > 100);
      assert.ok(document.stats.residentBytes <= 2 ** 16);
    });
  }
}

test('a custom store is verified against the file', async () => {
  const { code, stdout, stderr } = await runCli(['map', path, '--store', faithful]);
  assert.equal(code, 0, stderr);
  assert.ok(stdout.includes(sha256));
  assert.match(stdout, /custom\(/);
});

test('a store that lies is exit code 3, with the place where it can be told', async () => {
  const seq = await runCli(['map', path, '--store', liar]);
  assert.equal(seq.code, 3);
  assert.match(seq.stderr, /what was read differs from the file/);
  assert.match(seq.stdout, /verified +no/);

  const args = ['map', path, '--store', liar, '--pattern', 'random', '--touches', '20000', '--json'];
  const random = await runCli(args);
  assert.equal(random.code, 3);
  assert.equal(random.stderr, '');
  const document = JSON.parse(random.stdout) as Document;
  assert.equal(document.firstDifference, 40_960);
  assert.equal(document.error?.code, 'ERR_PAGEFAULT_MISMATCH');
});

test('a store that fails is exit code 1, and the reason is its own', async () => {
  const text = await runCli(['map', path, '--store', broken]);
  assert.equal(text.code, 1);
  assert.equal(text.stdout, '');
  assert.match(text.stderr, /gone fishing/);

  const json = await runCli(['map', path, '--store', broken, '--json']);
  assert.equal(json.code, 1);
  const { error } = JSON.parse(json.stdout) as { error: { code: string; cause: { message: string } } };
  assert.equal(error.code, 'ERR_PAGEFAULT_STORE');
  assert.equal(error.cause.message, 'gone fishing');
});

test('the text shows counters, histogram and page map, without colours in a pipe', async () => {
  const { code, stdout } = await runCli(['map', path, '--resident', '1MiB']);
  assert.equal(code, 0);
  for (const part of ['store', 'backend', 'budget', 'read', 'verified', 'Fault latency', 'Page map']) {
    assert.ok(stdout.includes(part), part);
  }
  assert.ok(stdout.includes(sha256));
  assert.match(stdout, /1 MiB in memory at once/);
  assert.ok(!stdout.includes('\x1b'));
});

test('files that cannot be mapped are sentences, exit code 1', async () => {
  const empty = join(folder, 'empty');
  writeFileSync(empty, '');
  const cases: [string[], string, RegExp][] = [
    [[join(folder, 'missing')], 'ERR_PAGEFAULT_STORE_OPEN', /no such file/],
    [[folder], 'ERR_PAGEFAULT_STORE_OPEN', /directory/],
    [[empty], 'ERR_PAGEFAULT_STORE_EMPTY', /empty/],
    [[path, '--store', join(folder, 'nowhere.js')], 'ERR_PAGEFAULT_STORE_MODULE', /does not exist/],
  ];
  for (const [args, errorCode, sentence] of cases) {
    const { code, stdout } = await runCli(['map', ...args, '--json']);
    assert.equal(code, 1, stdout);
    const { error } = JSON.parse(stdout) as { error: { code: string; message: string } };
    assert.equal(error.code, errorCode);
    assert.match(error.message, sentence);
  }
});

test('SIGINT ends it soon with exit code 130', async () => {
  const marker = join(folder, 'reading');
  const slow = store(
    'slow',
    `return new Promise((resolve) => setTimeout(() => { import('node:fs').then((fs) => fs.writeFileSync(${JSON.stringify(marker)}, '')); resolve(null); }, 20));`,
  );
  const interrupting = runCli(['map', path, '--store', slow, '--readahead', '0'], {
    onSpawn: async (child) => {
      while (child.exitCode === null && !existsSync(marker)) await new Promise((resolve) => setTimeout(resolve, 20));
      child.kill('SIGINT');
    },
  });
  const { code, stderr } = await interrupting;
  assert.equal(code, 130, stderr);
  assert.match(stderr, /interrupted/);
});
