/** `pagefault serve pages`: serves until it is ended, tells what happens, and says what is wrong. */

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { test } from 'node:test';
import { until } from '../helpers/descriptors.js';
import { answerTo, HandClient, head } from '../helpers/page-server.js';
import { type Ran, runCli } from '../helpers/run.js';
import { patternFile, patternModule, temporaryPath } from '../helpers/stores.js';

const BASE = 0x8000_0000n;

/** Runs the command; when its socket is there `body` acts, and then the command is ended. */
async function served(
  args: readonly string[],
  body: (path: string) => Promise<void>,
  signal: NodeJS.Signals,
): Promise<Ran> {
  const path = temporaryPath();
  let acted: Promise<void> | undefined;
  const ran = await runCli(['serve', 'pages', '--socket', path, '--base', '0x8000_0000', ...args], {
    timeoutMs: 60_000,
    onSpawn: (child) => {
      acted = until(() => existsSync(path), 30_000)
        .then(() => body(path))
        .finally(() => child.kill(signal));
      acted.catch(() => {}); // told below
    },
  });
  await acted;
  assert.equal(existsSync(path), false, 'the socket is removed');
  return ran;
}

async function ask(path: string): Promise<void> {
  const client = await HandClient.connect(path);
  client.send(head(BASE + 0x1000n, 4096), head(BASE, 3));
  const asked = { address: BASE + 0x1000n, pageSize: 4096n };
  assert.deepEqual(await client.rest(), answerTo(asked, BASE));
  client.close();
}

test('serves the file, tells of each client, and ends with SIGTERM and a summary', async () => {
  const memory = patternFile(65_536);
  const { code, stdout, stderr } = await served(['--memory', memory], ask, 'SIGTERM');
  assert.equal(code, 143, stderr);
  assert.equal(stderr, '');
  const lines = stdout.trimEnd().split('\n');
  assert.match(lines[0] ?? '', new RegExp(`^serving ${memory} at .+, from address 0x80000000 on$`));
  assert.match(lines[1] ?? '', /^client 1 \(process \d+\) has connected$/);
  assert.match(lines[2] ?? '', /^client 1 .+ was refused: address 0x80000000, 3 bytes: a page has 4096 bytes or more/);
  assert.match(lines[3] ?? '', /^client 1 .+ is gone$/);
  assert.equal(lines[4], '1 page (4 KiB) for 1 client, 1 refused, 0 pages not to be had');
});

test('--json gives an object a line, and SIGINT ends it too; --store serves a module of yours', async () => {
  const memory = temporaryPath();
  const module = patternModule.pathname.replace('pattern.js', 'served.js');
  const { code, stdout, stderr } = await served(['--memory', memory, '--store', module, '--json'], ask, 'SIGINT');
  assert.equal(code, 130, stderr);
  const events = stdout
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as { type: string; pages?: number });
  assert.deepEqual(
    events.map(({ type }) => type),
    ['listening', 'client', 'refused', 'gone', 'summary'],
  );
  assert.equal(events.at(-1)?.pages, 1);
});

test('--quiet says only one line', async () => {
  const { stdout } = await served(['--memory', patternFile(65_536), '--quiet'], ask, 'SIGTERM');
  assert.match(stdout, /^1 page .+\n$/);
});

const WRONG: [args: string[], sentence: RegExp][] = [
  [['serve'], /^pagefault serve: bring pages to other processes/],
  [['serve', 'pags'], /serve has no part 'pags'\n {2}Did you mean serve pages\?/],
  [['serve', '--socket', 'x'], /serve has no option --socket/],
  [['serve', 'pages', '--memory', 'x'], /serve pages needs --socket PATH/],
  [['serve', 'pages', '--socket', 'x'], /serve pages needs --memory FILE/],
  [['serve', 'pages', '--sockt', 'x'], /serve pages has no option --sockt\n {2}Did you mean --socket\?/],
  [
    ['serve', 'pages', '--socket', 'x', '--memory', 'y', '--base', 'here'],
    /--base must be an address such as 0x80000000/,
  ],
  [['serve', 'pages', '--socket', 'x', '--memory', 'y', '--mode', '999'], /--mode must be three octal digits/],
  [['serve', 'pages', '--socket', 'x', '--memory', 'y', '--max-clients', '0'], /--max-clients must be/],
];

test('a wrong command line is a sentence on stderr and exit code 2', async () => {
  const runs = await Promise.all(WRONG.map(([args]) => runCli(args)));
  for (const [i, { code, stdout, stderr }] of runs.entries()) {
    const [args, sentence] = WRONG[i] ?? [[], /./];
    assert.equal(code, 2, `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, sentence);
    assert.equal(stdout, '');
  }
});

test('what cannot be served, or be listened at, is exit code 1 and a sentence', async () => {
  const socket = temporaryPath();
  const missing = await runCli(['serve', 'pages', '--socket', socket, '--memory', temporaryPath()]);
  assert.deepEqual([missing.code, existsSync(socket)], [1, false]);
  assert.match(missing.stderr, /there is no such file \(ENOENT\)/);
  const taken = await runCli(['serve', 'pages', '--socket', patternFile(10), '--memory', patternFile(10), '--json']);
  assert.equal(taken.code, 1);
  assert.match(
    (JSON.parse(taken.stdout) as { error: { message: string } }).error.message,
    /it is a file, which is left as it is/,
  );
});

test('the help of serve and of its parts', async () => {
  const [serve, pages, help] = await Promise.all([
    runCli(['serve', '--help']),
    runCli(['serve', 'pages', '--help']),
    runCli(['help', 'serve', 'pages']),
  ]);
  assert.equal(serve?.code, 0);
  assert.match(serve?.stdout ?? '', /pagefault serve pages --socket/);
  assert.match(pages?.stdout ?? '', /^pagefault serve pages: /);
  assert.match(pages?.stdout ?? '', /--base ADDRESS/);
  assert.equal(help?.stdout, pages?.stdout);
});
