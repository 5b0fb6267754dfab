/** lldb, valgrind, strace and the sanitizers, on a process that pages. The slow ones run with PAGEFAULT_DEBUGGERS=all. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { noGdb } from '../helpers/gdb.js';
import { type Ran, run } from '../helpers/run.js';
import { backends, onEachBackend, temporaryPath } from '../helpers/stores.js';
import { buildUserAddon } from '../helpers/user-addon.js';

const script = fileURLToPath(new URL('../fixtures/debugged.js', import.meta.url));
const thorough = process.env['PAGEFAULT_DEBUGGERS'] === 'all';

function skipped(program: string, slow: boolean): string | false {
  if (slow && !thorough) return 'slow: set PAGEFAULT_DEBUGGERS=all';
  const { status } = spawnSync(program, ['--version'], { stdio: 'ignore', timeout: 60_000 });
  return status === 0 ? false : `${program} is not installed`;
}

const walk = (backend: string, addon: string): string[] => [script, backend, addon, 'walk', temporaryPath()];

/** Every byte was right, and what could not be had was thrown. */
function assertRight({ code, signal, stdout, stderr }: Ran): void {
  assert.equal(code, 0, `${signal} ${stdout} ${stderr}`);
  assert.match(stdout, /^wrong 0$/m, stderr);
}

test('lldb stops at a breakpoint, does not see a missing page, steps into a fault, and the bytes are right', async (t) => {
  const reason = noGdb === 'the steps are those of x64' ? noGdb : skipped('lldb', true);
  if (reason) return t.skip(reason);
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-lldb-'));
  const commands = join(folder, 'commands');
  writeFileSync(
    commands,
    `breakpoint set -n user_ready
process launch
process handle SIGBUS SIGSEGV -s false -p true -n false
breakpoint delete -f
breakpoint set -n user_load
continue
breakpoint set -a \`$pc + 8\`
thread step-inst
thread step-inst
continue
register read rax rip
breakpoint delete -f
breakpoint set -n user_ready
continue
memory read -c 8 $rdi
`, // in batch mode the first command that fails is the last one
  );
  try {
    const args = [
      '-x',
      '-b',
      '-s',
      commands,
      '--',
      process.execPath,
      ...walk(backends[0] ?? 'mprotect', buildUserAddon()),
    ];
    const { stdout, stderr } = await run('lldb', args, { timeoutMs: 900_000 });
    // Unlike gdb, a step over a fault enters pagefault's handler.
    assert.match(stdout, /user_load[\s\S]*on_(bus|segv)/, stderr);
    assert.match(stdout + stderr, /memory read failed/);
    assert.match(stdout, /rax = 0x0+\n/, stderr); // the first byte, behind the instruction
    assert.match(stdout, /^wrong 0$/m, stderr);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

/** Without them lldb reads all symbols of Node first, which takes a minute, and asks for more rights than to trace. */
const LLDB_SETTINGS = `settings set target.preload-symbols false
settings set target.disable-aslr false`;

test('under lldb a crash stops where the process begins to end, then at the faulting instruction, and ends it', async (t) => {
  const reason = noGdb === 'the steps are those of x64' ? noGdb : skipped('lldb', false);
  if (reason) return t.skip(reason);
  const folder = mkdtempSync(join(tmpdir(), 'pagefault-lldb-'));
  const commands = join(folder, 'commands');
  writeFileSync(
    commands,
    `${LLDB_SETTINGS}
process launch --stop-at-entry
process handle SIGBUS SIGSEGV -s false -p true -n false
breakpoint set -s pagefault.node -n pf_crash
continue
thread backtrace -c 8
process handle SIGSEGV -s true
thread continue
disassemble -p -c 1
continue
`,
  );
  try {
    const program = [process.execPath, script, backends[0] ?? 'mprotect', buildUserAddon(), 'crash', 'null'];
    const { stdout, stderr } = await run('lldb', ['-x', '-b', '-s', commands, '--', ...program]);
    if (/not permitted|lost connection/.test(stderr)) return t.skip('this process may not trace');
    const text = stdout + stderr;
    assert.match(stdout, /stop reason = breakpoint[\s\S]*pf_crash[\s\S]*`user_load \+ 5[\s\S]*`addon_load/, text);
    assert.match(stdout, /stop reason = signal SIGSEGV: [^\n]*fault address: 0x0\)/, text);
    assert.match(stdout, /disassemble -p -c 1\n[^\n]*`user_load:\n-> +0x[0-9a-f]+ <\+5>: +movzbl \(%rdi\), %eax/, text);
    assert.match(stdout, /exited with status = 11\b/, text);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});

test('strace shows every fault as a SIGBUS or SIGSEGV with its address', async (t) => {
  const reason = skipped('strace', false);
  if (reason) return t.skip(reason);
  const backend = backends[0] ?? 'mprotect';
  const path = temporaryPath();
  const args = ['-f', '-o', path, '-e', 'trace=userfaultfd', process.execPath, ...walk(backend, buildUserAddon())];
  const ran = await run('strace', args, { timeoutMs: 100_000 });
  if (!existsSync(path) || /PTRACE_TRACEME|not permitted/.test(ran.stderr)) return t.skip('this process may not trace');
  assertRight(ran);
  const seen = readFileSync(path, 'utf8').match(
    /--- (SIGBUS|SIGSEGV) \{si_signo=\1, si_code=(BUS_ADRERR|SEGV_ACCERR), si_addr=0x/g,
  );
  assert.ok((seen?.length ?? 0) >= 64, `${seen?.length}`);
});

test('under valgrind backend "mprotect" is chosen and works, and memcheck reports the first touch of a page', async (t) => {
  const reason = skipped('valgrind', true);
  if (reason) return t.skip(reason);
  const args = ['-q', process.execPath, '--jitless', ...walk('auto', buildUserAddon())];
  const ran = await run('valgrind', args, { timeoutMs: 290_000 });
  assert.match(ran.stdout, /^backend mprotect$/m, ran.stderr);
  assert.match(ran.stdout, /^wrong 0$/m, ran.stderr);
  assert.match(ran.stderr, /Invalid read of size 1[\s\S]*memfd:books/);
});

test('perf record sees a process that pages, and functions of pagefault by name', async (t) => {
  const reason = skipped('perf', true);
  if (reason) return t.skip(reason);
  const path = temporaryPath();
  const args = ['record', '-q', '-e', 'cpu-clock', '-F', '5000', '-o', path, process.execPath];
  const ran = await run('perf', [...args, ...walk(backends[0] ?? 'mprotect', buildUserAddon())], {
    timeoutMs: 100_000,
  });
  if (/perf_event_paranoid|not supported|No permission/.test(ran.stderr))
    return t.skip('this process may not count events');
  assertRight(ran);
  const { stdout } = await run('perf', ['report', '-i', path, '--stdio', '--sort', 'symbol'], { timeoutMs: 100_000 });
  assert.match(stdout, /\bpf_\w+/);
});

test('AddressSanitizer that allows nobody else a handler reports the first touch as a crash', async (t) => {
  if (!thorough) return t.skip('set PAGEFAULT_DEBUGGERS=all');
  const { stdout } = spawnSync('cc', ['-print-file-name=libasan.so'], { encoding: 'utf8' });
  const runtime = stdout?.trim() ?? '';
  if (!existsSync(runtime)) return t.skip('libasan.so is not installed');
  const addon = buildUserAddon(['-fsanitize=address']);
  for (const options of ['handle_segv=2:handle_sigbus=2', 'allow_user_segv_handler=0']) {
    const env = { ...process.env, LD_PRELOAD: runtime, ASAN_OPTIONS: `detect_leaks=0:${options}` };
    const ran = await run(process.execPath, walk('mprotect', addon), { env, timeoutMs: 100_000 });
    assert.notEqual(ran.code, 0, ran.stdout);
    assert.match(ran.stderr, /ERROR: AddressSanitizer: SEGV/);
  }
});

for (const sanitizer of ['address', 'undefined', 'thread'] as const) {
  const library = { address: 'asan', undefined: 'ubsan', thread: 'tsan' }[sanitizer];
  onEachBackend(`an addon built with -fsanitize=${sanitizer} reads and writes paged memory`, async (backend, t) => {
    if (!thorough && (backend !== backends[0] || sanitizer !== 'address')) return t.skip('set PAGEFAULT_DEBUGGERS=all');
    const cc = (process.env['CC'] || 'cc').split(' ')[0] ?? 'cc';
    const { stdout } = spawnSync(cc, [`-print-file-name=lib${library}.so`], { encoding: 'utf8' });
    const runtime = stdout?.trim() ?? '';
    if (!existsSync(runtime)) return t.skip(`lib${library}.so is not installed`);
    const addon = buildUserAddon([`-fsanitize=${sanitizer}`]);
    // ThreadSanitizer does not see the locks of Node and of pagefault, which are not built with it.
    const quiet = { ASAN_OPTIONS: 'detect_leaks=0', TSAN_OPTIONS: 'ignore_noninstrumented_modules=1' };
    const env = { ...process.env, LD_PRELOAD: runtime, ...quiet };
    const ran = await run(process.execPath, walk(backend, addon), { env, timeoutMs: 100_000 });
    assertRight(ran);
    assert.doesNotMatch(ran.stderr, /ERROR: |WARNING: ThreadSanitizer/);
  });
}
