/** Backend thread: missing pages are brought to system calls, and processes without privilege are lent the device that allows it. */

import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync, readvSync, write, writeFileSync, writeSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { map, PageError, systemPageSize } from 'pagefault';
import { sendFds, UnixSocket } from 'pagefault/kernel';
import { file, memory } from 'pagefault/stores';
import { probe } from '#dist/native/load.js';
import { nobody, runConfined } from '../helpers/confined.js';
import { runNode } from '../helpers/run.js';
import { knownStore, onEachStore, patternBytes, patternFile, temporaryPath } from '../helpers/stores.js';

const PAGE = systemPageSize();
const { servedErrno, deviceErrno } = probe();
const skip = servedErrno === 0 ? false : 'this process may not serve faults of the kernel (root, CAP_SYS_PTRACE)';
const DEVICE = '/dev/userfaultfd';
const lentSkip = deviceErrno === 0 ? false : `${DEVICE} cannot be opened here`;

onEachStore(
  'what a system call is handed is brought where the backend serves it, else EFAULT',
  async (backend, kind) => {
    const { ref, byte } = knownStore(kind, 16 * PAGE);
    const segment = await map(ref, { backend, readahead: 0 });
    const path = temporaryPath();
    const fd = openSync(path, 'w+');
    try {
      assert.equal(segment.kernelFaults, backend === 'thread');
      const send = (): number => writeSync(fd, segment.view(Uint8Array, 3 * PAGE + 5, 9 * PAGE));
      if (!segment.kernelFaults) {
        assert.throws(send, { code: 'EFAULT' });
        return;
      }
      assert.equal(send(), 9 * PAGE);
      assert.ok(readFileSync(path).every((value, i) => value === byte(3 * PAGE + 5 + i)));
      assert.equal(segment.stats().loads, 10);
    } finally {
      closeSync(fd);
      await segment.close();
    }
  },
);

test('readv goes into missing pages, which are written and flushed', { skip }, async () => {
  const path = patternFile(32 * PAGE);
  const input = temporaryPath();
  writeFileSync(input, new Uint8Array(8 * PAGE).fill(0xee));
  const fd = openSync(input, 'r');
  const segment = await map(file(path), { kernelFaults: true, writable: true });
  try {
    assert.equal(segment.backend, 'thread');
    assert.match(segment.backendReason, /service thread/);
    const parts = [segment.view(Uint8Array, PAGE + 1, 4 * PAGE), segment.view(Uint8Array, 20 * PAGE, 4 * PAGE)];
    assert.equal(readvSync(fd, parts as Uint8Array<ArrayBuffer>[], 0), 8 * PAGE);
    assert.deepEqual(segment.dirty(), [
      { offset: PAGE, byteLength: 5 * PAGE },
      { offset: 20 * PAGE, byteLength: 4 * PAGE },
    ]);
    await segment.flush();
  } finally {
    closeSync(fd);
    await segment.close();
  }
  const expected = patternBytes(32 * PAGE);
  expected.fill(0xee, PAGE + 1, 5 * PAGE + 1);
  expected.fill(0xee, 20 * PAGE, 24 * PAGE);
  assert.deepEqual(new Uint8Array(readFileSync(path)), expected);
});

test("writes of libuv's pool and of a socket go straight from a segment larger than its budget", { skip }, async () => {
  const bytes = patternBytes(256 * PAGE);
  const segment = await map(memory(bytes), { kernelFaults: true, resident: 32 * PAGE });
  const path = temporaryPath();
  const fd = openSync(path, 'w+');
  try {
    const part = (i: number): Uint8Array => segment.view(Uint8Array, i * 32 * PAGE, 32 * PAGE);
    const writeAt = promisify(write) as (
      fd: number,
      view: Uint8Array,
      at: number,
      length: number,
      to: number,
    ) => Promise<unknown>;
    await Promise.all(Array.from({ length: 8 }, (_, i) => writeAt(fd, part(i), 0, 32 * PAGE, i * 32 * PAGE)));
    assert.deepEqual(new Uint8Array(readFileSync(path)), bytes);
    const received: Buffer[] = [];
    const server = createServer((socket) => socket.on('data', (chunk) => received.push(chunk)));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as { port: number };
    const client = await new Promise<Socket>((resolve) => {
      const socket = connect(port, '127.0.0.1', () => resolve(socket));
    });
    const ended = new Promise((resolve) => server.once('close', resolve));
    client.end(segment.view(Uint8Array));
    server.close();
    await ended;
    assert.deepEqual(new Uint8Array(Buffer.concat(received)), bytes);
    assert.ok(segment.stats().residentBytes <= 32 * PAGE);
  } finally {
    closeSync(fd);
    await segment.close();
  }
});

test('a page that cannot be had gives the system call EFAULT, and heals', { skip }, async () => {
  const path = patternFile(8 * PAGE);
  const segment = await map(file(path), { kernelFaults: true, readahead: 0, faultTimeoutMs: 300 });
  const out = openSync(temporaryPath(), 'w');
  const whole = patternBytes(8 * PAGE);
  try {
    writeFileSync(path, whole.subarray(0, 4 * PAGE));
    for (let i = 0; i < 2; i++) {
      assert.throws(() => writeSync(out, segment.view(Uint8Array, 6 * PAGE, PAGE)), { code: 'EFAULT' });
    }
    assert.throws(() => segment.attempt(() => segment.view(Uint8Array)[6 * PAGE]), PageError);
    assert.throws(() => segment.attempt(() => segment.view(Uint8Array)[7 * PAGE]), PageError);
    writeFileSync(path, whole);
    segment.invalidate();
    await segment.load();
    assert.equal(writeSync(out, segment.view(Uint8Array)), 8 * PAGE);
    assert.deepEqual(segment.view(Uint8Array).slice(), whole);
  } finally {
    closeSync(out);
    await segment.close();
  }
});

/** Runs the program as nobody under a filter that refuses userfaultfd(2). */
async function lent(mode: string, env: NodeJS.ProcessEnv, fd: number): Promise<Record<string, unknown>> {
  const user = nobody();
  const uid = 'uid' in user ? { uid: user.uid } : {};
  const options = { env: { ...process.env, ...env }, fds: [fd] };
  const ran = await runConfined(
    { denyUserfaultfd: true, ...uid },
    'build/test/fixtures/lent-device.js',
    [mode],
    options,
  );
  assert.equal(ran.code, 0, ran.stderr);
  return JSON.parse(ran.stdout) as Record<string, unknown>;
}

function checkLent(told: Record<string, unknown>): void {
  const { backend, wrote } = told['{}'] as Record<string, unknown>;
  assert.deepEqual([backend, wrote], ['signal', 'EFAULT']);
  for (const asked of ['{"kernelFaults":true}', '{"backend":"thread"}']) {
    const got = told[asked] as Record<string, unknown>;
    assert.equal(got['backend'], 'thread', JSON.stringify(got));
    assert.match(String(got['reason']), /from \/dev\/userfaultfd/);
    assert.equal(got['right'], true);
  }
}

test('a confined process that inherits the device serves faults of the kernel', { skip: lentSkip }, async () => {
  const fd = openSync(DEVICE, 'r+');
  try {
    checkLent(await lent('env', { PAGEFAULT_USERFAULTFD: '3' }, fd));
  } finally {
    closeSync(fd);
  }
});

test('a confined process that is sent the device over a socket serves faults of the kernel', {
  skip: lentSkip,
}, async () => {
  const fd = openSync(DEVICE, 'r+');
  const [ours, theirs] = UnixSocket.pair();
  try {
    sendFds(ours, [fd]);
    checkLent(await lent('socket', {}, theirs.fd));
  } finally {
    closeSync(fd);
    ours.close();
    theirs.close();
  }
});

for (const mode of ['parent', 'worker']) {
  test(`programs that a process starts do without the device that it was lent, in its ${mode}`, {
    skip: lentSkip,
  }, async () => {
    const fd = openSync(DEVICE, 'r+');
    try {
      const user = nobody();
      const uid = 'uid' in user ? { uid: user.uid } : {};
      const options = { env: { ...process.env, PAGEFAULT_USERFAULTFD: '3' }, fds: [fd] };
      const script = 'build/test/fixtures/lent-parent.js';
      const confined = await runConfined({ denyUserfaultfd: true, ...uid }, script, [mode], options);
      const free = await runNode(script, [mode, 'paged'], options);
      // Who is not confined, or may open the device itself, needs no lending.
      for (const [ran, own] of [
        [confined, 'uid' in user ? 'UnsupportedError: ' : 'thread'],
        [free, 'thread'],
      ] as const) {
        assert.equal(ran.code, 0, ran.stderr);
        const told = JSON.parse(ran.stdout) as Record<string, unknown>;
        const [lent, spawned] = (told['worker'] ?? []) as string[];
        assert.deepEqual([lent, told['again'], told['given']], ['thread', 'thread', 'mprotect, thread'], ran.stdout);
        for (const got of [told['fork'], told['spawn'], spawned]) {
          assert.ok(String(got).startsWith(`mprotect, ${own}`), ran.stdout);
        }
      }
      assert.match(free.stdout, /"paged":"right"/, free.stderr);
    } finally {
      closeSync(fd);
    }
  });
}

test('without the device the process is told what it would need', async () => {
  const fd = openSync('/dev/null', 'r');
  try {
    const user = nobody();
    if (!('uid' in user)) return; // root may open the device itself
    const told = await lent('none', {}, fd);
    assert.equal((told['{}'] as Record<string, unknown>)['backend'], 'mprotect');
    assert.match(
      String(told['{"kernelFaults":true}']),
      /UnsupportedError: kernelFaults: true cannot work: userfaultfd is refused/,
    );
  } finally {
    closeSync(fd);
  }
});

test('a descriptor that is not the device is refused in a sentence', async () => {
  const program = `
    const { openSync } = await import('node:fs');
    const { useDevice } = await import('pagefault/kernel');
    for (const fd of [openSync('package.json'), openSync('/dev/null'), 999, -1, 'x']) {
      try { useDevice(fd); } catch (error) { console.log(error.code + ' ' + error.message); }
    }`;
  const { stdout } = await runNode('--input-type=module', ['-e', program]);
  const lines = stdout.trim().split('\n');
  assert.equal(lines.length, 5, stdout);
  assert.match(
    lines[0] ?? '',
    /^ERR_PAGEFAULT_WRONG_DESCRIPTOR useDevice\(\): needs \/dev\/userfaultfd, but descriptor \d+ is .*package\.json/,
  );
  assert.match(lines[1] ?? '', /needs \/dev\/userfaultfd, but descriptor \d+ is \/dev\/null/);
  assert.match(lines[2] ?? '', /descriptor 999 is not open/);
  assert.match(lines[3] ?? '', /^ERR_PAGEFAULT_OUT_OF_RANGE/);
  assert.match(lines[4] ?? '', /^ERR_PAGEFAULT_INVALID_ARGUMENT/);
  const env = { ...process.env, PAGEFAULT_USERFAULTFD: '1' };
  const wrong = await runNode('dist/cli/main.js', ['doctor'], { env });
  assert.match(
    wrong.stdout + wrong.stderr,
    /PAGEFAULT_USERFAULTFD=1 is not usable: ENOTTY; it must be an open descriptor of \/dev\/userfaultfd/,
  );
});
