/** `pagefault paging`: what becomes of children, signals from outside, and that nothing is left behind. */
import assert from 'node:assert/strict';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { until } from '../helpers/descriptors.js';
import { documentsOf, gone, linesOf, paging, start } from '../helpers/paging.js';

/** So many pages that a run does not end by itself while it is tested. */
const LONG = ['100000', '--pause', '5'];

const BY = [[], ['--signalfd']];

for (const by of BY) {
  const how = by.length === 0 ? 'by pidfd' : 'by signalfd';

  test(`a child that exits with a code is told ${how}, and the exit code is 1`, async () => {
    const { code, stdout, stderr } = await paging(['2', '--child-exit', '3', ...by]);
    assert.equal(code, 1);
    const lines = stdout.trimEnd().split('\n');
    assert.match(lines.at(-3) ?? '', /got signal SIGCHLD from child \d+( \(CLD_EXITED, status 3\))?$/);
    assert.match(lines.at(-2) ?? '', /child \d+ exited with code 3$/);
    assert.match(lines.at(-1) ?? '', /parent exiting$/);
    assert.match(stderr, /^pagefault: child \d+ exited with code 3\n$/);
  });

  test(`a child that is killed is told ${how}`, async () => {
    for (const [name, signal] of [
      ['SIGKILL', 'SIGKILL'],
      ['term', 'SIGTERM'],
    ]) {
      const { code, stdout, stderr } = await paging(['2', '--child-signal', name ?? '', ...by]);
      assert.equal(code, 1);
      assert.match(stdout, new RegExp(`child \\d+ killed by ${signal}\n`));
      assert.match(stderr, new RegExp(`^pagefault: child \\d+ was killed by ${signal}\n$`));
    }
  });

  test(`a child that is stopped, continued and killed from outside is told ${how}`, async () => {
    const run = start([...LONG, ...by]);
    await run.said(/read 'C'/);
    const [child = 0] = run.children();
    process.kill(child, 'SIGSTOP');
    await run.said(new RegExp(`child ${child} stopped by SIGSTOP\n`));
    const faults = run.stdout().length;
    await new Promise((resolve) => setTimeout(resolve, 100));
    assert.equal(run.stdout().length, faults, 'a stopped child does not fault');
    process.kill(child, 'SIGCONT');
    await run.said(new RegExp(`child ${child} continued\n`));
    await until(() => run.stdout().length > faults + 500);
    process.kill(child, 'SIGKILL');
    assert.deepEqual(await run.ended(), { code: 1, signal: null });
    assert.match(run.stdout(), new RegExp(`child ${child} killed by SIGKILL\n`));
    await gone([child, run.pid]);
  });

  test(`of several children each is told ${how}`, async () => {
    const documents = await documentsOf(['2', '--children', '6', ...by]);
    const started = documents.filter(({ type }) => type === 'child-started').map(({ child }) => child);
    const ended = documents.filter(({ type }) => type === 'sigchld').map(({ child }) => child);
    assert.equal(new Set(started).size, 6);
    if (by.length === 0) assert.deepEqual(new Set(ended), new Set(started));
    assert.equal(documents.at(-1)?.['faults'], 12);
  });
}

test('with --signalfd the line has what the signal says', async () => {
  const lines = await linesOf(['1', '--signalfd']);
  assert.match(lines.at(-2) ?? '', /^\[\d+\] got signal SIGCHLD from child \d+ \(CLD_EXITED, status 0\)$/);
});

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  test(`${signal} ends the children and exits with ${code}`, async () => {
    for (const more of [
      [],
      ['--children', '3'],
      ['--threads', '3'],
      ['--children', '2', '--threads', '2', '--signalfd'],
    ]) {
      const run = start([...LONG, ...more]);
      await run.said(/read 'B'/);
      const children = run.children();
      run.process.kill(signal);
      assert.deepEqual(await run.ended(), { code, signal: null });
      await gone(children);
      assert.match(run.stderr(), /^pagefault: (interrupted|ended by SIGTERM)\n$/);
    }
  });
}

test('a parent that is killed leaves no child, and no child reads zeroes', async () => {
  for (const more of [[], ['--children', '3'], ['--children', '1', '--threads', '4'], ['--quiet']]) {
    const run = start([...LONG, ...more]);
    const children = await childrenOf(run.pid, more.includes('3') ? 3 : 1);
    if (!more.includes('--quiet')) await run.said(/read 'B'/);
    run.process.kill('SIGKILL');
    await run.ended();
    await gone(children);
    assert.doesNotMatch(run.stdout(), /read '\0'/);
  }
});

test('after a run no process and no descriptor is left', async () => {
  const before = readdirSync('/proc/self/fd').length;
  const run = start(['20', '--children', '3', '--write', '--strategy', 'budget']);
  const children = await childrenOf(run.pid, 3);
  assert.deepEqual(await run.ended(), { code: 0, signal: null });
  await gone([run.pid, ...children]);
  assert.ok(readdirSync('/proc/self/fd').length <= before + 2);
});

/** A program that runs before the child's own, in the child only. */
function preload(code: string): { env: NodeJS.ProcessEnv; remove(): void } {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-preload-'));
  const path = join(folder, 'preload.cjs');
  writeFileSync(path, `if (/paging.child\\.js$/.test(process.argv[1] ?? '')) { ${code} }`);
  return {
    env: { ...process.env, NODE_OPTIONS: `--require=${path}` },
    remove: () => rmSync(folder, { recursive: true }),
  };
}

test('a child that dies before, during or after the handshake is one sentence', async () => {
  const deaths: [string, RegExp][] = [
    ['process.exit(7)', /child|process \d+ .*(exited with code 7|"code":7).*/],
    ["process.kill(process.pid, 'SIGKILL')", /process \d+ was killed by SIGKILL before it handed over any memory/],
    // Speaks, but says nothing that is agreed.
    ["require('node:fs').writeSync(4, Buffer.alloc(64, 1))", /PFG1|message/],
    // Half a message, and gone.
    ["require('node:fs').writeSync(4, Buffer.alloc(10)); process.exit(1)", /before it handed over any memory/],
  ];
  for (const [code, sentence] of deaths) {
    const { env, remove } = preload(code);
    const ran = await paging(['3'], { env });
    remove();
    assert.equal(ran.code, 1, `${code}: ${ran.stderr}`);
    assert.match(ran.stderr, sentence);
    assert.equal(ran.stderr.trimEnd().split('\n').length, 1, ran.stderr);
  }
  const run = start(LONG);
  await run.said(/mapped/);
  const [child = 0] = run.children();
  process.kill(child, 'SIGKILL');
  assert.deepEqual(await run.ended(), { code: 1, signal: null });
  assert.equal(run.stderr(), `pagefault: child ${child} was killed by SIGKILL\n`);
});

/** Process ids of the children of a process, once there are so many. */
async function childrenOf(pid: number, count: number): Promise<number[]> {
  const { readFileSync } = await import('node:fs');
  const read = (): number[] => {
    try {
      return readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().split(' ').filter(Boolean).map(Number);
    } catch {
      return [];
    }
  };
  await until(() => read().length >= count);
  return read();
}
