import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { Mapping, readProcessMemory } from 'pagefault/kernel';

test('the memory of this process and of a child is copied', { timeout: 20_000 }, async () => {
  const mapping = Mapping.anonymous(8192);
  new Uint8Array(mapping.buffer).fill(7, 100, 8000);
  const into = new Uint8Array(8192);
  assert.equal(readProcessMemory(process.pid, mapping.address, into), 8192);
  assert.deepEqual(into, new Uint8Array(mapping.buffer));
  const script = `import { Mapping } from 'pagefault/kernel';
    const m = Mapping.anonymous(4096); new Uint8Array(m.buffer).fill(42); console.log(String(m.address)); setTimeout(() => {}, 60000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    const [line] = (await once(child.stdout, 'data')) as [Buffer];
    const theirs = new Uint8Array(4096);
    assert.equal(readProcessMemory(child.pid ?? 0, BigInt(String(line).trim()), theirs), 4096);
    assert.ok(theirs.every((byte) => byte === 42));
  } finally {
    child.kill('SIGKILL');
  }
  mapping.unmap();
});

test('a copy ends where the memory does, and what cannot be read is a sentence', () => {
  const mapping = Mapping.anonymous(3 * 4096);
  mapping.protect('none', 4096, 8192);
  const into = new Uint8Array(8192);
  assert.equal(readProcessMemory(process.pid, mapping.address, into), 4096);
  assert.throws(() => readProcessMemory(process.pid, mapping.address + 4096n, into), {
    code: 'ERR_PAGEFAULT_SYSTEM',
    errno: 14,
    message: /nothing can be read/,
  });
  mapping.unmap();
  assert.throws(() => readProcessMemory(2 ** 22 + 1, 0n, into), { errno: 3, message: /there is no process/ });
  for (const pid of [0, -1, 1.5, Number.NaN, '1' as unknown as number]) {
    assert.throws(() => readProcessMemory(pid, 0n, into), { code: 'ERR_PAGEFAULT_OUT_OF_RANGE' });
  }
  assert.throws(() => readProcessMemory(1, 5 as unknown as bigint, into), { code: 'ERR_PAGEFAULT_INVALID_ARGUMENT' });
  assert.throws(() => readProcessMemory(1, 2n ** 64n, into), { code: 'ERR_PAGEFAULT_INVALID_ARGUMENT' });
  assert.throws(() => readProcessMemory(1, 0n, new ArrayBuffer(8) as unknown as Uint8Array), { name: 'TypeError' });
});
