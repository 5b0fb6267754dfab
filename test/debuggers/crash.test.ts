/** A crash of a process that pages ends it as it would have ended without pagefault, and names the segment that is nearest. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import type { Backend } from 'pagefault';
import { gdb, noGdb, quiet } from '../helpers/gdb.js';
import { type Ran, run, runNode } from '../helpers/run.js';
import { backends } from '../helpers/stores.js';
import { buildUserAddon } from '../helpers/user-addon.js';

const script = fileURLToPath(new URL('../fixtures/debugged.js', import.meta.url));
const addon = buildUserAddon();
const PAGE = 4096;
const LENGTH = 64 * PAGE;

function crash(backend: Backend, kind: string, flags: readonly string[] = []): Promise<Ran> {
  const args = [...flags, script, backend, addon, 'crash', kind];
  return runNode(args[0] ?? '', args.slice(1), { timeoutMs: 60_000 });
}

/** Of the kinds, which signal, and what the report says (false: nothing). */
const crashes: Record<string, readonly [NodeJS.Signals, RegExp | false]> = {
  null: ['SIGSEGV', false],
  'wild write': ['SIGSEGV', false],
  jump: ['SIGSEGV', false],
  abort: ['SIGABRT', false],
  'stack overflow': ['SIGSEGV', false],
  SIGSEGV: ['SIGSEGV', false],
  SIGBUS: ['SIGBUS', false],
  'guard page': [
    'SIGSEGV',
    /, a read by the instruction at 0x[0-9a-f]+ \([\w.-]+\.node\+0x[0-9a-f]{1,5}\)\n[\s\S]*where: +5 bytes behind its end\n/,
  ],
  'jump into it': [
    'SIGSEGV',
    /, a jump by the instruction at 0x[0-9a-f]+ \(no library's: [\s\S]*where: +inside, at offset 0\n[\s\S]*never executable/,
  ],
  closed: ['SIGSEGV', /where: +inside, at offset 12289, which was closed \d+ ms ago\n/],
  unmapped: ['SIGSEGV', /where: +inside, at offset 20480\n[\s\S]*somebody has changed/],
};

// Each kind on one backend, each backend with several kinds; all of them where one asks for it.
const all = process.env['PAGEFAULT_DEBUGGERS'] === 'all';

for (const [i, [kind, [signal, says]]] of Object.entries(crashes).entries()) {
  for (const [j, backend] of backends.entries()) {
    if (!all && i % backends.length !== j) continue;
    test(`${kind}: the process ends by ${signal}, and the report ${says ? 'names the segment' : 'is silent'} [${backend}]`, async () => {
      const ran = await crash(backend, kind);
      assert.equal(ran.signal, signal, ran.stderr);
      const start = BigInt(/address (\d+)/.exec(ran.stdout)?.[1] ?? 0);
      if (says === false) return assert.doesNotMatch(ran.stderr, /pagefault: this|segment: books/);
      assert.match(
        ran.stderr,
        /pagefault: this SIGSEGV is not of a missing page[\s\S]*segment: books\n +store: +memory/,
      );
      assert.match(
        ran.stderr,
        new RegExp(`memory: +0x${start.toString(16)} to 0x${(start + BigInt(LENGTH)).toString(16)}\n`),
      );
      assert.match(ran.stderr, says);
    });
  }
}

const [backend = 'mprotect'] = backends;

test('reports of Node are written for an uncaught exception, and it aborts where it is told to', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-report-'));
  try {
    const flags = ['--report-uncaught-exception', `--report-directory=${folder}`, '--report-exclude-network'];
    const usual = flags.slice(0, process.allowedNodeEnvironmentFlags.has('--report-exclude-network') ? 3 : 2);
    const [ran, aborted] = await Promise.all([
      crash(backend, 'uncaught exception', usual),
      crash(backend, 'uncaught exception', ['--abort-on-uncaught-exception']),
    ]);
    assert.equal(ran.code, 1, ran.stderr);
    const [report = ''] = readdirSync(folder);
    const { header, sharedObjects } = JSON.parse(readFileSync(join(folder, report), 'utf8'));
    assert.equal(header.event, 'Exception');
    assert.ok(sharedObjects.some((path: string) => path.endsWith('pagefault.node')));
    assert.ok(['SIGABRT', 'SIGTRAP', 'SIGILL'].includes(aborted.signal ?? ''), `${aborted.signal} ${aborted.stderr}`);
    assert.match(aborted.stderr, /nobody catches this/);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('a fatal error of V8 writes its report', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-report-'));
  try {
    const flags = ['--report-on-fatalerror', `--report-directory=${folder}`, '--max-old-space-size=40'];
    const ran = await crash(backend, 'fatal error', flags);
    assert.equal(ran.signal, 'SIGABRT', ran.stderr);
    const [report = ''] = readdirSync(folder);
    assert.equal(
      JSON.parse(readFileSync(join(folder, report), 'utf8')).header.event,
      'Allocation failed - JavaScript heap out of memory',
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('under gdb a crash stops where the process begins to end, and then at the faulting instruction', async (t) => {
  if (noGdb) return t.skip(noGdb);
  const program = ['--args', process.execPath, script, backend, addon, 'crash', 'null'];
  const { steps, text } = await gdb(program, [
    { name: 'end', commands: [quiet, 'break pf_crash', 'run', 'backtrace'] },
    {
      name: 'fault',
      commands: ['set scheduler-locking on', 'handle SIGSEGV stop print', 'continue', 'x/i $pc', 'print $_siginfo'],
    },
  ]);
  if (/ptrace: Operation not permitted|Could not trace/.test(text)) return t.skip('this process may not trace');
  assert.match(steps['end'] ?? '', /pf_crash[\s\S]*<signal handler called>[\s\S]*user_load[\s\S]*addon_load/, text);
  assert.match(steps['fault'] ?? '', /received signal SIGSEGV[\s\S]*=> 0x[0-9a-f]+ <user_load\+5>/, text);
  assert.match(steps['fault'] ?? '', /si_code = 1,[\s\S]*si_addr = 0x0/, text);
});

/** Why no core can be looked at here, or false. */
function noCore(): string | false {
  if (noGdb) return noGdb;
  const pattern = readFileSync('/proc/sys/kernel/core_pattern', 'utf8').trim();
  if (pattern !== 'core') return `cores go elsewhere (core_pattern is ${pattern})`;
  return spawnSync('sh', ['-c', 'ulimit -c unlimited']).status === 0 ? false : 'cores are limited (ulimit -c)';
}

test('the core shows the original access, the backtrace and the pages of a small segment', async (t) => {
  const reason = noCore();
  if (reason) return t.skip(reason);
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-core-'));
  try {
    const command = 'ulimit -c unlimited; exec "$@"';
    const program = [process.execPath, script, backend, addon, 'crash', 'guard page'];
    const ran = await run('sh', ['-c', command, 'sh', ...program], { cwd: folder, timeoutMs: 60_000 });
    assert.equal(ran.signal, 'SIGSEGV', ran.stderr);
    const core = ['core', ...readdirSync(folder)]
      .map((name) => join(folder, name))
      .filter((path) => existsSync(path))
      .at(-1);
    if (core === undefined) return t.skip('the kernel wrote no core');
    const start = BigInt(/address (\d+)/.exec(ran.stdout)?.[1] ?? 0);
    const { steps, text } = await gdb(
      [process.execPath, core],
      [
        {
          name: 'where',
          commands: ['x/i $pc', 'print $rdi', 'print $_siginfo._sifields._sigfault.si_addr', 'backtrace 3'],
        },
        { name: 'page', commands: [`x/4xb ${start}`] },
      ],
    );
    assert.match(steps['where'] ?? '', /=> 0x[0-9a-f]+ <user_load\+5>/, text);
    assert.match(steps['where'] ?? '', new RegExp(`= ${start + BigInt(LENGTH + 5)}`), text);
    assert.match(steps['where'] ?? '', new RegExp(`0x${(start + BigInt(LENGTH + 5)).toString(16)}`), text);
    assert.match(steps['where'] ?? '', /#0 .*user_load[\s\S]*#1 .*addon_load/, text);
    if (backend === 'signal') assert.match(steps['page'] ?? '', /:\t0x00\t0x07\t0x0e\t0x15/, text);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
