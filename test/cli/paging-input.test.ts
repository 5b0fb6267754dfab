/** `pagefault paging`: what it refuses, and with which sentence. */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { nobody, runConfined } from '../helpers/confined.js';
import { paging } from '../helpers/paging.js';
import { root, run as runProgram } from '../helpers/run.js';

const WRONG: [string[], RegExp][] = [
  [['0'], /PAGES must be a whole number from 1 to 2\^32, not '0'/],
  [['-3'], /takes no negative number, such as -3/],
  [['1.5'], /not '1\.5'/],
  [['three'], /not 'three'/],
  [['4294967297'], /from 1 to 2\^32/],
  [['1e999'], /from 1 to 2\^32/],
  [['3', '4'], /takes no argument '4'/],
  [['--quiet'], /paging needs PAGES/],
  [['3', '--children', '0'], /--children must be a whole number of at least 1/],
  [['3', '--children', '257'], /--children must be at most 256/],
  [['3', '--threads', '0'], /--threads must be/],
  [['3', '--threads', '1000'], /--threads must be at most 256/],
  [['3', '--memory', 'mapp'], /Did you mean --memory mmap\?/],
  [['3', '--strategy', 'egaer'], /Did you mean --strategy eager\?/],
  [['3', '--strategy', 'eager,ondemand', '--switch-after', '1'], /Did you mean --strategy on-demand\?/],
  [['3', '--strategy', ''], /must be one of/],
  [['3', '--strategy', 'eager,budget'], /several strategies need --switch-after/],
  [['3', '--switch-after', '2'], /needs at least two strategies/],
  [['3', '--switch-after', '0', '--strategy', 'eager,budget'], /at least 1/],
  [['3', '--resident', '4'], /limit of --strategy budget/],
  [['3', '--child-exit', '256'], /from 0 to 255/],
  [['3', '--child-signal', 'SIGKIL'], /Did you mean --child-signal SIGKILL\?/],
  [['3', '--child-signal', 'STOP'], /does not end this one\n {2}Send it from outside: kill -STOP PID/],
  [['3', '--threads', '2', '--child-exit', '1'], /--child-exit needs a child/],
  [['3', '--childern', '2'], /Did you mean --children\?/],
];

test('what is wrong with the command line is a sentence, and the exit code 2', async () => {
  for (const [args, sentence] of WRONG) {
    const { code, stdout, stderr } = await paging(args);
    assert.equal(code, 2, `${args.join(' ')}: ${stderr}`);
    assert.match(stderr, sentence);
    assert.equal(stdout, '');
  }
});

test('with --json an error is a document on stdout', async () => {
  const { code, stdout, stderr } = await paging(['0', '--json']);
  assert.equal(code, 2);
  assert.equal(stderr, '');
  assert.equal((JSON.parse(stdout) as { error: { code: string } }).error.code, 'ERR_PAGEFAULT_USAGE');
  const ran = await paging(['1', '--child-exit', '9', '--json']);
  assert.equal(ran.code, 1);
  const last = JSON.parse(ran.stdout.trimEnd().split('\n').at(-1) ?? '') as { type: string; error: { code: string } };
  assert.equal(last.type, 'summary');
  assert.equal(last.error.code, 'ERR_PAGEFAULT_CHILD');
});

test('more pages than can be mapped are refused with the reason', async () => {
  const program = join(root, 'dist/cli/main.js');
  for (const more of ['', '--threads 2']) {
    // 1 TiB of addresses are enough for any Node, and not for 16 TiB more.
    const command = `ulimit -v 1073741824; exec "${process.execPath}" "${program}" paging 4294967296 --quiet ${more}`;
    const { code, stderr } = await runProgram('sh', ['-c', command], { timeoutMs: 30_000 });
    assert.ok(code === 1 || code === 2, `${code}: ${stderr}`); // 2: this Node holds no buffer of that length
    assert.match(stderr, /^pagefault: .*17592186044416 bytes/);
    assert.equal(stderr.trimEnd().split('\n').length, 1, stderr);
  }
});

test('where userfaultfd is refused the message says what allows it, and the exit code is 4', async (context) => {
  const user = nobody();
  if ('reason' in user) return context.skip(user.reason);
  if (!refusesDevice(user.uid)) return context.skip('/dev/userfaultfd is open to everybody here');
  for (const more of [[], ['--threads', '2'], ['--children', '2']]) {
    const args = ['paging', '3', '--quiet', ...more];
    const ran = await runConfined({ denyUserfaultfd: true, uid: user.uid }, 'dist/cli/main.js', args);
    assert.equal(ran.code, 4, ran.stderr);
    for (const what of ['/dev/userfaultfd', 'seccomp']) {
      assert.ok(ran.stderr.includes(what), `${what} is not in: ${ran.stderr}`);
    }
    assert.match(ran.stderr, /^pagefault: /);
  }
});

test('an ordinary user needs no privilege', async (context) => {
  const user = nobody();
  if ('reason' in user) return context.skip(user.reason);
  for (const more of [[], ['--threads', '2'], ['--write', '--strategy', 'budget'], ['--signalfd']]) {
    const ran = await runConfined({ uid: user.uid }, 'dist/cli/main.js', ['paging', '12', '--quiet', ...more]);
    assert.deepEqual({ code: ran.code, stderr: ran.stderr }, { code: 0, stderr: '' });
    assert.match(ran.stdout, /^12 pages .* faults/);
  }
});

/** Where the device can be opened nothing is refused: its permissions are all that counts. */
function refusesDevice(uid: number): boolean {
  try {
    const { mode, uid: owner } = statSync('/dev/userfaultfd');
    return owner !== uid && (mode & 0o006) !== 0o006;
  } catch {
    return true;
  }
}
