/** Writable segments on a kernel that acts as if it were older: PAGEFAULT_WITHOUT is read once a process, so each in one of its own. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { probe } from '#dist/native/load.js';
import { runConfined } from '../helpers/confined.js';
import { skipOlderKernels } from '../helpers/older-kernels.js';
import { runNode } from '../helpers/run.js';

function suite(name: string): string {
  return fileURLToPath(new URL(`./${name}.test.js`, import.meta.url));
}

/** What a program says of the segment that it maps. */
const TELLS = `
  const { map } = await import('pagefault');
  const { memory } = await import('pagefault/stores');
  const segment = await map(memory(new SharedArrayBuffer(8192)), { writable: true });
  segment.view(Uint8Array)[5000] = 1;
  console.log(segment.backend, JSON.stringify(segment.dirty()), segment.backendReason);
  await segment.close();
`;
const DIRTY = '[{"offset":4096,"byteLength":4096}]';

interface Mask {
  without: string;
  backend: string;
  reason: RegExp;
  suites: readonly string[];
}

const masks: readonly Mask[] = [
  { without: '', backend: 'signal', reason: /the kernel notes which pages are written$/, suites: [] },
  {
    without: 'wp_async',
    backend: 'signal',
    reason: /the first write to a page is a fault, because the kernel cannot note writes itself$/,
    suites: ['writes', 'write-failures', 'write-states', 'writes-shared'],
  },
  {
    without: 'move',
    backend: 'signal',
    reason: /a fault, because the kernel cannot/,
    suites: ['writes', 'write-states', 'writes-shared'],
  },
  {
    without: 'wp_unpopulated,poison',
    backend: 'signal',
    reason: /the kernel notes which pages are written$/,
    suites: ['writes', 'write-states'],
  },
  {
    without: 'wp_unpopulated',
    backend: 'signal',
    reason: /the kernel notes which pages are written$/,
    suites: ['writes'],
  },
  { without: 'poison', backend: 'signal', reason: /the kernel notes which pages are written$/, suites: ['writes'] },
  {
    without: 'wp',
    backend: 'mprotect',
    reason: /cannot write-protect pages, .*\(mprotect\); the first write to a page is a fault$/,
    suites: ['writes'],
  },
];

const skip = probe().writeTracking === 'async' ? false : 'this kernel is older than those that are played here';

for (const { without, backend, reason, suites } of masks) {
  test(`without ${without || 'nothing'} auto picks ${backend} and says how writes are seen`, { skip }, async () => {
    const env = { ...process.env, PAGEFAULT_WITHOUT: without };
    const { stdout, stderr } = await runNode('--input-type=module', ['-e', TELLS], { env });
    assert.ok(stdout.startsWith(`${backend} ${DIRTY} `), `${stdout}${stderr}`);
    assert.match(stdout.trim(), reason);
  });
  for (const name of suites) {
    test(`${name} without ${without}`, { skip: skip || skipOlderKernels, timeout: 240_000 }, async () => {
      // Not as a part of this run: its numbers are to be read.
      const env = { ...process.env, PAGEFAULT_WITHOUT: without, NODE_TEST_CONTEXT: undefined };
      // The other backends do not use what is taken away here.
      const only = `--test-name-pattern=${backend === 'signal' ? '\\[signal' : '.'}`;
      const { code, stdout, stderr } = await runNode(only, [suite(name)], { env, timeoutMs: 200_000 });
      assert.equal(code, 0, `${stdout.slice(-3000)}${stderr.slice(-2000)}`);
      assert.match(stdout, /^. pass [1-9]/m);
    });
  }
}

test("without wp backend 'signal' is refused for a writable segment, and only for that", { skip }, async () => {
  const program = `
    const { map } = await import('pagefault');
    const { memory } = await import('pagefault/stores');
    const store = memory(new SharedArrayBuffer(8192));
    await (await map(store, { backend: 'signal' })).close();
    await map(store, { backend: 'signal', writable: true }).catch((error) => console.log(error.code, error.message));
  `;
  const env = { ...process.env, PAGEFAULT_WITHOUT: 'wp' };
  const { stdout, stderr } = await runNode('--input-type=module', ['-e', program], { env });
  assert.match(
    stdout,
    /^ERR_PAGEFAULT_UNSUPPORTED backend 'signal' cannot work: this kernel cannot write-protect/,
    stderr,
  );
});

test('writes where userfaultfd is refused', { skip: skipOlderKernels, timeout: 240_000 }, async () => {
  const { code, stdout, stderr } = await runConfined({ denyUserfaultfd: true }, suite('writes'), [], {
    timeoutMs: 200_000,
  });
  assert.equal(code, 0, `${stdout.slice(-3000)}${stderr.slice(-2000)}`);
});
