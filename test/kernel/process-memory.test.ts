/** readProcessMemory: the memory of another process, and what cannot be read. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { Mapping, PidFd, readProcessMemory, Uffd } from 'pagefault/kernel';
import { openFds } from '../helpers/descriptors.js';
import { run } from '../helpers/run.js';

const TIMEOUT = { timeout: 60_000 };
const PAGE = 4096 * 16;

test('the memory of another process is read, as far as it is mapped', TIMEOUT, async () => {
  const before = openFds();
  const source = `
    const { Mapping } = await import('pagefault/kernel');
    const mapping = Mapping.anonymous(${3 * PAGE});
    const bytes = new Uint8Array(mapping.buffer);
    for (let i = 0; i < bytes.length; i++) bytes[i] = (i * 7) & 255;
    mapping.protect('none', ${2 * PAGE}, ${PAGE});
    console.log(String(mapping.address));
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const pid = child.pid ?? -1;
  const [line] = (await once(child.stdout, 'data')) as [Buffer];
  const address = BigInt(line.toString().trim());
  const into = new Uint8Array(3 * PAGE);
  assert.equal(readProcessMemory(pid, address + 3n, into.subarray(0, 100)), 100);
  assert.deepEqual([...into.subarray(0, 3)], [21, 28, 35]);
  assert.equal(readProcessMemory(pid, address, into), 2 * PAGE);
  assert.ok(into.subarray(0, 2 * PAGE).every((byte, i) => byte === ((i * 7) & 255)));
  assert.throws(() => readProcessMemory(pid, address + BigInt(2 * PAGE), into), {
    name: 'SystemError',
    syscall: 'process_vm_readv',
    message: /nothing is mapped there, or it is inaccessible.*EFAULT/,
  });
  const pidfd = PidFd.open(pid);
  child.kill('SIGKILL');
  await once(child, 'close');
  assert.throws(() => readProcessMemory(pid, address, into), { message: /there is no such process.*ESRCH/ });
  pidfd.close();
  assert.equal(openFds(), before);
});

test('the memory of this process is copied too', TIMEOUT, () => {
  using mapping = Mapping.anonymous(2 * PAGE);
  new Uint8Array(mapping.buffer).fill(7, 100, PAGE + 100);
  const into = new Uint8Array(2 * PAGE);
  assert.equal(readProcessMemory(process.pid, mapping.address, into), 2 * PAGE);
  assert.deepEqual(into, new Uint8Array(mapping.buffer));
});

test('a missing page of a userfaultfd that serves no faults of the kernel cannot be read', TIMEOUT, () => {
  using mapping = Mapping.anonymous(PAGE);
  const uffd = Uffd.open({ userModeOnly: true });
  uffd.register(mapping, 'missing');
  const into = new Uint8Array(16);
  assert.throws(() => readProcessMemory(process.pid, mapping.address, into), {
    message: /its userfaultfd does not serve faults of the kernel.*EFAULT/,
  });
  uffd.copy(mapping.address, new Uint8Array(PAGE).fill(9));
  assert.equal(readProcessMemory(process.pid, mapping.address, into), 16);
  assert.equal(into[15], 9);
  uffd.unregister(mapping);
  uffd.close();
});

const root = process.getuid?.() === 0;

test('a process of somebody else is refused, with what would allow it', {
  ...TIMEOUT,
  skip: !root && 'needs root',
}, async () => {
  const source = `
    import('pagefault/kernel').then(({ probe, readProcessMemory }) => {
      probe(); // loads the core before the folder cannot be read any more
      process.setuid(65534);
      try { readProcessMemory(${process.pid}, 4096n, new Uint8Array(1)); }
      catch (error) { console.log(error.name, error.errno, error.message.includes('CAP_SYS_PTRACE')); }
    });`;
  const ran = await run(process.execPath, ['-e', source], { timeoutMs: 20_000 });
  assert.deepEqual([ran.stdout, ran.stderr], ['PermissionError 1 true\n', '']);
});

test('what is no process, no address or no bytes is refused in a sentence', TIMEOUT, () => {
  const into = new Uint8Array(8);
  for (const pid of [0, -3, Number.NaN, 1.5]) assert.throws(() => readProcessMemory(pid, 0n, into), RangeError);
  assert.throws(() => readProcessMemory(process.pid, 7 as unknown as bigint, into), {
    name: 'TypeError',
    message: /bigint/,
  });
  assert.throws(() => readProcessMemory(process.pid, -1n, into), RangeError);
  assert.throws(() => readProcessMemory(process.pid, 2n ** 64n - 7n, into), RangeError);
  assert.throws(() => readProcessMemory(process.pid, 0n, 'x' as unknown as Uint8Array), TypeError);
  assert.equal(readProcessMemory(process.pid, 0n, new Uint8Array(0)), 0);
  assert.throws(() => readProcessMemory(4_194_304, 4096n, into), { message: /ESRCH/ });
});
