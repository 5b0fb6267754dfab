/** gdb on a process that pages: it stops where one wants, steps over faults, and the program reads what it would read without it. */

import assert from 'node:assert/strict';
import { fileURLToPath } from 'node:url';
import type { Backend } from 'pagefault';
import { patternByte } from '../fixtures/pattern.js';
import { gdb, noGdb, quiet } from '../helpers/gdb.js';
import { onEachBackend, temporaryPath } from '../helpers/stores.js';
import { buildUserAddon } from '../helpers/user-addon.js';

const script = fileURLToPath(new URL('../fixtures/debugged.js', import.meta.url));
const addon = noGdb ? '' : buildUserAddon();
const PAGE = 4096;

function program(backend: Backend, ...scenario: string[]): string[] {
  return ['--args', process.execPath, script, backend, addon, ...scenario];
}

const signalOf = (backend: Backend): string => (backend === 'mprotect' ? 'SIGSEGV' : 'SIGBUS');
/** What docs/debugging.md gives to bring a page in. */
const compare = (at: string): string =>
  `((int (*)(void *, void *, unsigned long))memcmp)((void *)(${at}), (void *)(${at} + 1), 1)`;
const hex = (byte: number): string => `= 0x${byte.toString(16)}`;

/** What stops without the line that makes it quiet. */
const stops = [
  {
    name: 'first fault',
    commands: ['continue', 'x/i $pc', 'print $_siginfo._sifields._sigfault.si_addr', 'print $rdi'],
  },
  { name: 'second fault', commands: ['continue', 'x/i $pc', 'print $rdi'] },
];

/** At the instruction and with the address of the page, first page 0 and then page 1. */
function assertStops(steps: Record<string, string>, backend: Backend, text: string): void {
  assert.match(steps['first fault'] ?? '', new RegExp(`received signal ${signalOf(backend)}`), text);
  assert.match(steps['first fault'] ?? '', /=> 0x[0-9a-f]+ <user_load\+5>/, text);
  const [, faulted, base] = /= \(void \*\) (0x[0-9a-f]+)[^=]*= (\d+)/.exec(steps['first fault'] ?? '') ?? [];
  assert.equal(BigInt(faulted ?? 0), BigInt(base ?? 1), text);
  assert.match(steps['second fault'] ?? '', new RegExp(`received signal ${signalOf(backend)}`), text);
  assert.match(steps['second fault'] ?? '', new RegExp(`= ${BigInt(base ?? 0) + BigInt(PAGE + 1)}`), text);
}

onEachBackend('gdb stops, steps and looks at paged memory, and the bytes are right', async (backend, t) => {
  if (noGdb) return t.skip(noGdb);
  const signals = backend !== 'thread'; // there a thread that faults sleeps in the kernel
  const first = signals ? 1 : 0;
  const { steps, text, stdout } = await gdb(program(backend, 'walk', temporaryPath()), [
    { name: 'ready', commands: ['break user_ready', 'run', 'delete'] },
    ...(signals ? stops : []),
    { name: 'stepi', commands: [quiet, 'tbreak *user_load_at', 'continue', 'stepi', 'print/x $eax', 'x/i $pc'] },
    {
      name: 'stepi at a breakpoint',
      commands: ['break *user_load_at', 'continue', 'stepi', 'print/x $eax', 'x/i $pc'],
    },
    { name: 'nexti', commands: ['continue', 'nexti', 'print/x $eax', 'x/i $pc'] },
    { name: 'look', commands: ['continue', 'x/1xb $rdi'] },
    {
      name: 'call',
      commands: ['delete', 'print/x ((unsigned long (*)(unsigned long, unsigned long))user_sum)($rdi + 4096, 2)'],
    },
    { name: 'look again', commands: ['x/1xb $rdi + 4096'] },
    { name: 'memcmp', commands: [`print ${compare('$rdi + 8192')}`, 'x/1xb $rdi + 8192'] },
    { name: 'write', commands: ['tbreak *user_store_at', 'continue', 'stepi', 'x/1xb $rdi', 'x/i $pc'] },
    { name: 'nexti write', commands: ['break *user_store_at', 'continue', 'nexti', 'x/1xb $rdi', 'x/i $pc'] },
    { name: 'ours', commands: ['delete', 'tbreak pf_page_ensure', 'continue', 'backtrace 12', 'finish'] },
    { name: 'attempt', commands: ['tbreak user_ready', 'continue', 'continue', 'print $_siginfo.si_code', 'x/i $pc'] },
    { name: 'attempt again', commands: ['signal SIGTRAP'] },
    { name: 'end', commands: ['signal SIGTRAP'] },
  ]);
  if (/ptrace: Operation not permitted|Could not trace/.test(text)) return t.skip('this process may not trace');
  assert.match(steps['ready'] ?? '', /hit Breakpoint 1, user_ready/, text);
  if (signals) assertStops(steps, backend, text);
  for (const [page, name] of [
    [first, 'stepi'],
    [first + 1, 'stepi at a breakpoint'],
    [first + 2, 'nexti'],
  ] as const) {
    assert.ok((steps[name] ?? '').includes(hex(patternByte(page * (PAGE + 1)))), `${name}: ${text}`);
    assert.match(steps[name] ?? '', /=> 0x[0-9a-f]+ <user_load\+8>/, `${name}: ${text}`);
  }
  // ptrace does not fault pages in: it refuses, and of a page that is closed by mprotect it shows what lies below.
  if (backend === 'mprotect') assert.match(steps['look'] ?? '', /:\t0x00/, text);
  else assert.doesNotMatch(steps['look'] ?? '', /:\t0x/, text);
  const called = (first + 4) * PAGE + first + 3;
  const summed = patternByte(called) + patternByte(called + 1);
  assert.ok((steps['call'] ?? '').includes(hex(summed)), `call: ${text}`);
  assert.match(
    steps['look again'] ?? '',
    new RegExp(`:\t0x${patternByte(called).toString(16).padStart(2, '0')}`),
    text,
  );
  const compared = patternByte(called + PAGE)
    .toString(16)
    .padStart(2, '0');
  assert.match(steps['memcmp'] ?? '', new RegExp(`:\t0x${compared}`), text);
  for (const name of ['write', 'nexti write']) {
    assert.match(steps[name] ?? '', /:\t0x63/, `${name}: ${text}`);
    assert.match(steps[name] ?? '', /=> 0x[0-9a-f]+ <user_store\+4>/, `${name}: ${text}`);
  }
  const path = signals
    ? /pf_page_ensure[\s\S]*<signal handler called>[\s\S]*user_store[\s\S]*addon_store/
    : /pf_page_ensure/;
  assert.match(steps['ours'] ?? '', path, text);
  assert.match(stdout, /^wrong 0$/m, text);
  // The trap behind an instruction that attempt() has redirected: gdb takes it for its own, and must be told to pass it on.
  assert.match(steps['attempt'] ?? '', /received signal SIGTRAP[\s\S]*= 2\n[\s\S]*<user_load\+8>/, text);
  assert.match(steps['attempt again'] ?? '', /received signal SIGTRAP/, text);
  assert.deepEqual(stdout.match(/^attempt .*$/gm), Array(2).fill('attempt 0 ERR_PAGEFAULT_STORE_CHANGED'), text);
  assert.match(steps['end'] ?? '', /exited normally/, text);
});

onEachBackend(
  'a step over an access that attempt() has to redirect ends with a report that says why',
  async (backend, t) => {
    if (noGdb) return t.skip(noGdb);
    if (process.env['PAGEFAULT_DEBUGGERS'] !== 'all') return t.skip('slow: set PAGEFAULT_DEBUGGERS=all');
    const { text } = await gdb(program(backend, 'attempt', temporaryPath()), [
      { name: 'ready', commands: [quiet, 'break user_ready', 'run', 'delete', 'tbreak *user_load_at', 'continue'] },
      { name: 'step', commands: ['stepi'] },
    ]);
    if (/ptrace: Operation not permitted|Could not trace/.test(text)) return t.skip('this process may not trace');
    assert.match(text, /hint: +a debugger's breakpoint lies on this instruction/);
  },
);
