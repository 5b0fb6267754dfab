/** include/pagefault_guest.h, in a program of its own, against a pager that is written to the protocol. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { test } from 'node:test';
import { compileGuest, type Ended, hello, Parent, type ParentOptions } from '../helpers/guest-parent.js';
import { runNode } from '../helpers/run.js';

const PAGES = 64;
const STORE = PAGES * 4096;
const { EPERM, EPROTO, EPROTONOSUPPORT, ETIMEDOUT, ECONNRESET, ENOENT, EPIPE } = constants.errno;

const compiled = compileGuest('c', ['-DPAGEFAULT_GUEST_HELLO_TIMEOUT_MS=500']);
const guest = 'path' in compiled ? compiled.path : '';
const skip = 'reason' in compiled ? compiled.reason : false;

function start(what: string, options: ParentOptions = {}): Parent {
  return new Parent(guest, [what], options);
}

/** The lines of a child that ended well. */
function lines({ code, signal, stdout, stderr }: Ended): string[] {
  assert.equal(signal, null, stderr);
  assert.equal(code, 0, stderr);
  assert.equal(stderr, '');
  return stdout.trimEnd().split('\n');
}

const openFds = (): number => readdirSync('/proc/self/fd').length;

for (const language of ['c', 'c++'] as const) {
  const built = compileGuest(language);
  test(`a program compiled as ${language} reads every byte of the store`, {
    skip: 'reason' in built && built.reason,
  }, async () => {
    const before = openFds();
    const parent = new Parent('path' in built ? built.path : '', ['pages']);
    const ended = await parent.ended();
    assert.deepEqual(lines(ended), ['connect 0', 'map 0', 'wrong 0', 'unpage 0', 'disconnect 0']);
    assert.equal(new Set(parent.faults).size, PAGES);
    assert.equal(openFds(), before);
  });
}

test('REGION is what the protocol says, byte by byte', { skip }, async () => {
  const parent = start('pages', { hello: hello({ flags: 1 }) });
  lines(await parent.ended());
  assert.equal(parent.regions.length, 1);
  const [{ bytes, address, uffd } = assert.fail()] = parent.regions;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  assert.equal(view.getUint32(0, true), 0x31474650);
  assert.equal(view.getUint32(4, true), 2);
  assert.equal(address % 4096n, 0n);
  assert.equal(view.getBigUint64(16, true), BigInt(STORE));
  assert.equal(view.getBigUint64(24, true), 0n);
  assert.equal(view.getUint32(32, true), 4096);
  assert.equal(view.getUint32(36, true) & ~5, 0);
  assert.equal(view.getBigUint64(40, true) & ~0x394dn, 0n, 'only features that were agreed');
  assert.equal(view.getBigUint64(40, true) & 0x4cn, 0x4cn, 'remap, remove and unmap');
  assert.equal((view.getBigUint64(48, true) >> 3n) & 1n, 1n, 'COPY');
  assert.equal(view.getUint32(56, true), 1);
  assert.equal(view.getUint32(60, true), 1);
  assert.equal(uffd.closed, true);
});

test('a page size that the pager wishes for is used', { skip }, async () => {
  const parent = start('pages', { hello: hello({ pageSize: 65_536 }) });
  assert.ok(lines(await parent.ended()).includes('wrong 0'));
  assert.equal(parent.regions[0]?.pageSize, 65_536);
  assert.equal(new Set(parent.faults).size, STORE / 65_536);
});

test('pages that are taken away come again', { skip }, async () => {
  const parent = start('twice', { hello: hello({ flags: 2 }) });
  await parent.until(() => parent.stdout.includes('wrong 0'));
  const [{ address } = assert.fail()] = parent.regions;
  const before = parent.faults.length;
  parent.drop(address, STORE / 2, 41);
  await parent.until(() => parent.dropped.length === 1);
  const [bytes = assert.fail()] = parent.dropped;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  assert.equal(view.getBigUint64(8, true), address);
  assert.equal(view.getBigUint64(16, true), BigInt(STORE / 2));
  assert.equal(view.getUint32(24, true), 0);
  assert.equal(view.getUint32(60, true), 41);
  parent.child.stdin?.write('\n');
  assert.ok(lines(await parent.ended()).includes('again 0'));
  assert.equal(parent.faults.length, before + PAGES / 2);
});

const hellos: readonly { what: string; bytes: Uint8Array | undefined; errno: number; end?: boolean }[] = [
  { what: 'a wrong magic number', bytes: hello().fill(0x51, 0, 1), errno: EPROTO },
  { what: 'another kind of message', bytes: hello().fill(3, 4, 5), errno: EPROTO },
  { what: 'version 2', bytes: hello({ version: 2 }), errno: EPROTONOSUPPORT },
  { what: 'a page size that is no power of two', bytes: hello({ pageSize: 12_288 }), errno: EPROTO },
  { what: 'half a message and then nothing', bytes: hello().subarray(0, 32), errno: ETIMEDOUT },
  { what: 'nothing', bytes: undefined, errno: ETIMEDOUT },
  { what: 'half a message and the end', bytes: hello().subarray(0, 32), errno: ECONNRESET, end: true },
  { what: 'the end', bytes: undefined, errno: ECONNRESET, end: true },
];
for (const { what, bytes, errno, end = false } of hellos) {
  test(`connect refuses ${what} in time`, { skip }, async () => {
    const started = Date.now();
    const parent = start('hello', { hello: bytes });
    if (end) parent.die();
    assert.deepEqual(lines(await parent.ended()), [`connect -${errno}`]);
    assert.ok(Date.now() - started < 20_000);
  });
}

test('a program that no pager started is told so', { skip }, async () => {
  const parent = start('hello', { env: { PAGEFAULT_GUEST_FD: undefined } });
  assert.deepEqual(lines(await parent.ended()), [`connect -${ENOENT}`]);
});

test('a region that the pager refuses is undone, and reads no zeroes', { skip }, async () => {
  const parent = start('refused', { answer: () => EPERM });
  assert.deepEqual(lines(await parent.ended()), ['connect 0', `page -${EPERM}`, 'accessible 0']);
});

test('a region that the pager does not answer is undone in time', { skip }, async () => {
  const parent = start('refused', { hello: hello({ ackTimeoutMs: 300 }), answer: () => undefined });
  assert.deepEqual(lines(await parent.ended()), ['connect 0', `page -${ETIMEDOUT}`, 'accessible 0']);
});

test('a pager that ends instead of answering is an error, not the end of the process', { skip }, async () => {
  const parent: Parent = start('refused', {
    answer: () => {
      setImmediate(() => parent.die());
      return undefined;
    },
  });
  assert.deepEqual(lines(await parent.ended()), ['connect 0', `page -${EPIPE}`, 'accessible 0']);
});

test('when the pager dies, the process is killed at once and has seen no zero page', { skip }, async () => {
  const parent = start('loop', { pages: 20 });
  await parent.until(() => parent.faults.length === 21); // it waits for a page now
  const died = Date.now();
  parent.die();
  const { signal, stdout, stderr } = await parent.ended();
  assert.ok(Date.now() - died < 10_000);
  assert.equal(signal, 'SIGKILL');
  assert.match(stderr, /^pagefault: the pager of process \d+ is gone; .*\n$/);
  assert.ok(!stdout.includes('wrong'), stdout);
  assert.ok(stdout.includes('page 19\n') && !stdout.includes('page 20\n'));
});

/** Dead, whether or not somebody has reaped it. */
function isDead(pid: number): boolean {
  try {
    return /\) [ZX] /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return true;
  }
}

test('when the process of the pager is killed, a program that waits for a page is killed at once', {
  skip,
}, async () => {
  let pid = 0;
  let killed = 0;
  const { signal } = await runNode('build/test/fixtures/guest-pager.js', [guest, 'loop'], {
    timeoutMs: 20_000,
    onSpawn: (pager) => {
      pager.stdout?.on('data', (text: string) => {
        pid = Number(text);
        assert.ok(!isDead(pid));
        killed = Date.now();
        pager.kill('SIGKILL');
      });
    },
  });
  assert.equal(signal, 'SIGKILL');
  assert.ok(pid > 0);
  while (!isDead(pid) && Date.now() - killed < 10_000) await new Promise((resolve) => setTimeout(resolve, 5));
  assert.ok(isDead(pid));
});

test('when the pager dies while all pages are there, the process is killed too', { skip }, async () => {
  const parent = start('loop');
  await parent.until(() => parent.stdout.includes(`page ${PAGES - 1}\n`));
  parent.die();
  const { signal, stdout } = await parent.ended();
  assert.equal(signal, 'SIGKILL');
  assert.ok(!stdout.includes('wrong'));
});

test('when the pager dies after ordering a drop, the process is killed', { skip }, async () => {
  const parent = start('twice', { hello: hello({ flags: 2 }) });
  await parent.until(() => parent.stdout.includes('wrong 0'));
  const [{ address } = assert.fail()] = parent.regions;
  parent.drop(address, STORE, 1);
  parent.die(); // at once: nobody reads of it
  const { signal } = await parent.ended();
  assert.equal(signal, 'SIGKILL');
});

test('bytes that are not of the protocol count as the end of the pager', { skip }, async () => {
  const parent = start('loop');
  await parent.until(() => parent.stdout.includes('page 1\n'));
  parent.send(new Uint8Array(64).fill(7));
  const { signal } = await parent.ended();
  assert.equal(signal, 'SIGKILL');
});

test('a program that it starts inherits neither the variable nor a descriptor', { skip }, async () => {
  assert.deepEqual(lines(await start('exec').ended()), ['connect 0', 'map 0', 'variable 0', 'inherited 0']);
});

test('a forked process gets SIGSEGV instead of zeroes', { skip }, async () => {
  const parent = start('fork');
  assert.deepEqual(lines(await parent.ended()), ['connect 0', 'map 0', `signal ${constants.signals.SIGSEGV}`]);
});

test('eight threads that fault at once see the right bytes', { skip }, async () => {
  assert.deepEqual(lines(await start('threads').ended()), ['connect 0', 'map 0', 'wrong 0']);
});
