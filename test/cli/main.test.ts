/** The command line around its commands: help, version, wrong usage, exit codes, JSON errors. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { root, runCli } from '../helpers/run.js';

test('help begins with examples and goes to stdout', async () => {
  for (const args of [['--help'], ['-h'], ['help']]) {
    const { code, stdout, stderr } = await runCli(args);
    assert.equal(code, 0);
    assert.equal(stderr, '');
    assert.ok(stdout.indexOf('Examples:') < stdout.indexOf('Commands:'));
  }
  for (const args of [
    ['map', '--help'],
    ['help', 'map'],
    ['map', '-h', 'too', 'many'],
  ]) {
    const { code, stdout } = await runCli(args);
    assert.equal(code, 0);
    assert.ok(stdout.indexOf('Examples:') < stdout.indexOf('Usage: pagefault map FILE'));
    assert.match(stdout, /--resident SIZE/);
  }
});

test('the version is that of the package', async () => {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  for (const option of ['--version', '-v']) {
    assert.deepEqual(await runCli([option]), { code: 0, signal: null, stdout: `${version}\n`, stderr: '' });
  }
});

const WRONG: [string[], RegExp][] = [
  [[], /Commands:/],
  [['docter'], /no command 'docter'\n {2}Did you mean doctor\?/],
  [['serve-all-things'], /Commands are doctor, map, .* and \w+;/],
  [['--versoin'], /no option --versoin\n {2}Did you mean --version\?/],
  [['map'], /map needs FILE/],
  [['map', 'a', 'b'], /takes no argument 'b'/],
  [['map', 'a', '--residnet', '4MiB'], /no option --residnet\n {2}Did you mean --resident\?/],
  [['map', 'a', '--resident'], /--resident needs a value/],
  [['map', 'a', '--resident', '--json='], /--resident needs a value/],
  [['map', 'a', '--resident', '4 parsecs'], /--resident must be a number with KiB, MiB or GiB/],
  [['map', 'a', '--page-size', '3000'], /page.*power of two/i],
  [['map', 'a', '--pattern', 'sequential'], /--pattern must be one of seq, random, zipf/],
  [['map', 'a', '--pattern', 'zip'], /Did you mean --pattern zipf\?/],
  [['map', 'a', '--backend', 'kernel'], /--backend must be one of auto, signal, mprotect/],
  [['map', 'a', '--touches', '0'], /--touches must be a whole number of at least 1/],
  [['map', 'a', '--touches', '1.5'], /--touches must be a whole number/],
  [['doctor', '--json=yes'], /--json takes no value/],
  [['top', '0'], /PORT must be the port that a server was given with --metrics, or http:/],
  [['top', 'https://127.0.0.1:1'], /PORT must be/],
  [['top', '9090', '--sort', 'latnecy'], /Did you mean --sort latency\?/],
  [['top', '9090', '--interval', '1'], /--interval must be a whole number of at least 100/],
  [['doctor', 'now'], /takes no argument 'now'/],
];

test('a wrong command line is a sentence on stderr and exit code 2', async () => {
  for (const [args, sentence] of WRONG) {
    const given = args.map((arg) => (arg === 'a' ? process.execPath : arg));
    const { code, stdout, stderr } = await runCli(given);
    const shown = `${args.join(' ')}: ${stdout}${stderr}`;
    assert.equal(code, 2, shown);
    assert.match(stderr, sentence, shown);
    assert.equal(stdout, '', shown);
  }
});

test('with --json a wrong command line is one document on stdout', async () => {
  const { code, stdout, stderr } = await runCli(['map', 'a', '--residnet', '1', '--json']);
  assert.equal(code, 2);
  assert.equal(stderr, '');
  assert.deepEqual(JSON.parse(stdout), {
    error: { code: 'ERR_PAGEFAULT_USAGE', message: 'map has no option --residnet', hint: 'Did you mean --resident?' },
  });
});
