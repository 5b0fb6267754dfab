/** Opening userfaultfds: options, privileges, adoption, and that no refusal leaks a descriptor. */
import assert from 'node:assert/strict';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { Mapping, pageSize, Uffd } from 'pagefault/kernel';
import { native } from '#dist/native/load.js';
import { type Confinement, nobody, runConfined } from '../helpers/confined.js';
import { openFds, openFifo } from '../helpers/descriptors.js';
import { mappedAt } from '../helpers/proc.js';

const TIMEOUT = { timeout: 60_000 };
const PAGE = pageSize();
const flagsOf = (fd: number): number =>
  Number.parseInt(/^flags:\s*(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '', 8);

function withoutLeak(body: () => void): void {
  const before = openFds();
  body();
  assert.equal(openFds(), before);
}

test('a userfaultfd tells what it is: features, ioctls, flags, origin', TIMEOUT, () => {
  withoutLeak(() => {
    const uffd = Uffd.open({ features: ['sigbus'], userModeOnly: true, device: 'never' });
    assert.deepEqual(uffd.features.names, ['sigbus']);
    assert.ok(uffd.availableFeatures?.has('thread-id'));
    assert.deepEqual(uffd.ioctls.names, ['register', 'unregister', 'api']);
    assert.equal(uffd.openedBy, 'syscall');
    assert.equal(uffd.userModeOnly, true);
    assert.equal(uffd.nonBlocking, true);
    assert.equal(flagsOf(uffd.fd) & 0o2004000, 0o2004000);
    uffd.close();
    uffd.close();
    assert.equal(uffd.closed, true);
    const plain = Uffd.open({ closeOnExec: false, nonBlocking: false, userModeOnly: true, device: 'never' });
    assert.equal(flagsOf(plain.fd) & 0o2004000, 0);
    assert.equal(plain.nonBlocking, false);
    plain[Symbol.dispose]();
  });
});

test('features that the kernel lacks are named, and optional ones left out', TIMEOUT, () => {
  withoutLeak(() => {
    assert.throws(() => Uffd.open({ features: (1n << 40n) | 1n }), {
      name: 'UnsupportedError',
      missing: ['0x10000000000'],
    });
    const uffd = Uffd.open({ features: ['thread-id'], optionalFeatures: (1n << 40n) | (1n << 7n) });
    assert.deepEqual(uffd.features.names, ['sigbus', 'thread-id']);
    assert.equal(uffd.features.unknown, 0n);
    uffd.close();
    assert.throws(() => Uffd.open({ features: ['thread_id' as 'thread-id'] }), /did you mean 'thread-id'/);
    assert.throws(() => Uffd.open({ nonblocking: true } as object), /did you mean 'nonBlocking'/);
    assert.throws(() => Uffd.open({ closeOnExec: 1 as unknown as boolean }), /must be true or false/);
  });
});

test('ioctls that a range lacks are named when it is registered, and it is not registered then', TIMEOUT, () => {
  withoutLeak(() => {
    const uffd = Uffd.open({ ioctls: ['copy', 'writeprotect'] });
    using mapping = Mapping.anonymous(PAGE);
    assert.throws(() => uffd.register(mapping, 'missing'), { name: 'UnsupportedError', missing: ['writeprotect'] });
    assert.throws(() => uffd.zeropage(mapping), { errno: 2 });
    assert.ok(uffd.register(mapping, ['missing', 'write-protect']).has('writeprotect'));
    uffd.close();
  });
});

test('a mode that lacks a needed ioctl leaves an earlier registration as it is', TIMEOUT, () => {
  const uffd = Uffd.open({ ioctls: ['writeprotect'] });
  const mapping = Mapping.anonymous(PAGE);
  uffd.register(mapping, ['missing', 'write-protect']);
  assert.throws(() => uffd.register(mapping, 'missing'), { missing: ['writeprotect'] });
  assert.equal(uffd.zeropage(mapping), PAGE);
  uffd.writeProtect(mapping);
  mapping.unmap();
  uffd.close();
});

test('to register again replaces the kinds of faults, unless the range has them all', TIMEOUT, () => {
  const uffd = Uffd.open();
  const mapping = Mapping.anonymous(PAGE);
  const kinds = (): string[] =>
    (mappedAt(mapping.address)?.flags ?? []).filter((flag) => flag === 'um' || flag === 'uw');
  uffd.register(mapping, 'missing');
  assert.deepEqual(kinds(), ['um']);
  uffd.register(mapping, 'write-protect');
  assert.deepEqual(kinds(), ['uw']);
  uffd.register(mapping, ['missing', 'write-protect']);
  assert.deepEqual(kinds(), ['um', 'uw']);
  uffd.register(mapping, 'missing');
  assert.deepEqual(kinds(), ['um', 'uw']);
  assert.throws(() => uffd.register(mapping, ((1n << 32n) | 1n) as never), { name: 'RangeError', message: /no mode/ });
  mapping.unmap();
  uffd.close();
});

test('descriptors of the wrong kind are refused by what they are, and stay the caller’s', TIMEOUT, () => {
  withoutLeak(() => {
    const fifo = openFifo();
    const zero = openSync('/dev/zero', 'r+');
    for (const fd of [fifo, zero, 10_000]) {
      const code = 'ERR_PAGEFAULT_WRONG_DESCRIPTOR';
      assert.throws(() => Uffd.fromFd(fd), { code, message: /needs a userfaultfd, but descriptor \d+ is/ });
      assert.throws(() => Uffd.open({ device: fd }), { code, message: /needs a descriptor of \/dev\/userfaultfd/ });
    }
    assert.throws(() => Uffd.fromFd(-1), { name: 'RangeError' });
    assert.throws(() => Uffd.fromFd('3' as unknown as number), { name: 'TypeError' });
    assert.throws(() => Uffd.open({ device: '/dev/zero' }), { code: 'ERR_PAGEFAULT_WRONG_DESCRIPTOR' });
    assert.throws(() => Uffd.open({ device: '/nonexistent' }), { code: 'ERR_PAGEFAULT_SYSTEM', errno: 2 });
    closeSync(fifo);
    closeSync(zero);
  });
});

test('a descriptor is given away and taken over with what it can do; a second handshake is refused', TIMEOUT, () => {
  withoutLeak(() => {
    const first = Uffd.open({ features: ['thread-id'] });
    const fd = first.intoFd();
    assert.equal(first.closed, true);
    assert.throws(() => first.fd, { code: 'ERR_PAGEFAULT_CLOSED', message: 'this Uffd is closed' });
    first.close(); // not its own any more
    assert.throws(() => Uffd.fromFd(fd, { handshake: true }), {
      name: 'SystemError',
      errno: 22,
      message: /has been made already/,
    });
    assert.throws(() => Uffd.fromFd(fd, { features: ['sigbus'] }), /need handshake: true/);
    const second = Uffd.fromFd(fd);
    assert.deepEqual(second.features.names, ['thread-id']);
    assert.equal(second.openedBy, 'adopted');
    assert.equal(second.nonBlocking, true);
    using mapping = Mapping.anonymous(PAGE);
    assert.ok(second.register(mapping, 'missing').has('copy'));
    second.close();
  });
});

test('the handshake of a descriptor is made for its maker, once', TIMEOUT, () => {
  withoutLeak(() => {
    const fd = native().uffdOpen(0o2004001, -1);
    assert.ok(fd >= 0);
    const early = Uffd.fromFd(fd);
    using mapping = Mapping.anonymous(PAGE);
    assert.throws(() => early.register(mapping, 'missing'), { errno: 22, message: /its handshake was not made/ });
    assert.throws(() => early.readEvent(), { errno: 22, message: /its handshake was not made/ });
    const late = early.intoFd();
    assert.throws(() => Uffd.fromFd(late, { handshake: true, features: 1n << 40n }), {
      name: 'UnsupportedError',
      missing: ['0x10000000000'],
    });
    const uffd = Uffd.fromFd(late, { handshake: true, features: ['sigbus'], optionalFeatures: ['wp-async'] });
    assert.ok(uffd.features.has('sigbus'));
    assert.equal(uffd.features.has('wp-async'), uffd.availableFeatures?.has('wp-async'));
    const again = Uffd.fromFd(uffd.intoFd());
    assert.equal(again.features.bits, uffd.features.bits);
    again.close();
  });
});

const child = 'build/test/fixtures/uffd-opener.js';

async function opened(confinement: Confinement, device?: number): Promise<Record<string, unknown>> {
  const inherited = device === undefined ? { args: [], fds: [] } : { args: ['3'], fds: [device] };
  const ran = await runConfined(confinement, child, inherited.args, { timeoutMs: 30_000, fds: inherited.fds });
  assert.equal(ran.code, 0, ran.stderr);
  return JSON.parse(ran.stdout) as Record<string, unknown>;
}

test(
  'without privilege only user-mode faults are to be had, and the refusal names what would help',
  TIMEOUT,
  async (t) => {
    const user = nobody();
    if ('reason' in user) return t.skip(user.reason);
    const told = await opened(user);
    assert.equal(told['auto'], 'syscall user-mode-only');
    if (readFileSync('/proc/sys/vm/unprivileged_userfaultfd', 'utf8').trim() === '0') {
      assert.match(
        String(told['kernelFaults']),
        /^PermissionError .*CAP_SYS_PTRACE.*vm\.unprivileged_userfaultfd.*\/dev\/userfaultfd.*userModeOnly/,
      );
    }
    assert.match(String(told['fork']), /^PermissionError .*event-fork needs CAP_SYS_PTRACE/);
    assert.equal(told['optionalFork'], 'thread-id');
    assert.match(String(told['node']), /^PermissionError .*may not open \/dev\/userfaultfd/);
    assert.equal(told['leaked'], 0);
  },
);

test(
  'where the system call is refused, an inherited device descriptor works, for faults of the kernel too',
  TIMEOUT,
  async (t) => {
    const user = nobody();
    if ('reason' in user) return t.skip(user.reason);
    const told = await opened({ ...user, denyUserfaultfd: true });
    assert.match(String(told['auto']), /^PermissionError .*seccomp/);
    assert.equal(told['leaked'], 0);
    let device: number;
    try {
      device = openSync('/dev/userfaultfd', 'r+');
    } catch {
      return t.skip('/dev/userfaultfd cannot be opened');
    }
    const inherited = await opened({ ...user, denyUserfaultfd: true }, device);
    closeSync(device);
    assert.equal(inherited['device'], 'descriptor kernel-faults 77');
    assert.equal(inherited['leaked'], 0);
  },
);

test('what is wrong with a range has a code of its own', TIMEOUT, () => {
  const uffd = Uffd.open();
  const mapping = Mapping.anonymous(2 * pageSize());
  const { address } = mapping;
  const page = pageSize();
  const wrong: [bigint, number, string][] = [
    [0n, page, 'NULL_BASE'],
    [address, 0, 'ZERO_SIZE'],
    [address + 1n, page, 'BASE_NOT_ALIGNED'],
    [address, page + 1, 'SIZE_NOT_ALIGNED'],
  ];
  for (const [from, byteLength, code] of wrong) {
    const refused = { name: 'RangeError', code: `ERR_PAGEFAULT_${code}` };
    assert.throws(() => uffd.register({ address: from, byteLength }, 'missing'), refused);
  }
  assert.throws(() => Mapping.anonymous(page, { address: 0n }), { code: 'ERR_PAGEFAULT_NULL_BASE' });
  assert.throws(() => Mapping.anonymous(page, { address: address + 1n }), { code: 'ERR_PAGEFAULT_BASE_NOT_ALIGNED' });
  mapping.unmap();
  uffd.close();
});
