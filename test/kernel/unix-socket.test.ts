/** UnixSocket and UnixListener: two queues, limits, ends, paths. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, openSync, rmSync, statSync, unlinkSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { closeFd, UnixListener, UnixSocket } from 'pagefault/kernel';
import { openFds, until } from '../helpers/descriptors.js';

const TIMEOUT = { timeout: 60_000 };
const folder = mkdtempSync(join(tmpdir(), 'pagefault-unix-'));
after(() => rmSync(folder, { recursive: true }));

const text = (bytes: Uint8Array | undefined): string | undefined => bytes && Buffer.from(bytes).toString();

test('bytes and descriptors are two queues, whatever the kernel glued together', TIMEOUT, () => {
  const before = openFds();
  const [a, b] = UnixSocket.pair();
  assert.equal(b.fill(), 'empty');
  a.send(Buffer.from('one'));
  a.send(Buffer.from('two'), [a.fd]);
  a.send(Buffer.from('three'), [b.fd, a.fd]);
  assert.equal(b.fill(), 'data');
  assert.deepEqual([b.available, b.fdCount, b.ended], [11, 3, false]);
  assert.equal(text(b.read(6)), 'onetwo');
  assert.equal(b.read(6), undefined);
  assert.equal(text(b.read(5)), 'three');
  assert.equal(b.read(0)?.length, 0);
  closeFd(b.takeFd() ?? -1);
  a.close();
  assert.equal(b.fill(), 'empty'); // a descriptor of the other end is still on this side
  assert.equal(b.fdCount, 2);
  b.close(); // closes what nobody took
  assert.equal(openFds(), before);
});

test('the end comes after the last byte, and sending to nobody is an error in a sentence', TIMEOUT, () => {
  using before = { count: openFds(), [Symbol.dispose]() {} };
  const [a, b] = UnixSocket.pair();
  a.send(Buffer.from('last'));
  a.close();
  assert.throws(() => a.send(Buffer.from('x')), { code: 'ERR_PAGEFAULT_CLOSED', message: 'this UnixSocket is closed' });
  assert.throws(() => a.fd, { code: 'ERR_PAGEFAULT_CLOSED' });
  assert.throws(() => a.fill(), { code: 'ERR_PAGEFAULT_CLOSED' });
  assert.throws(() => a.onReadable(() => {}), { code: 'ERR_PAGEFAULT_CLOSED' });
  assert.equal(b.fill(), 'data');
  assert.equal(b.ended, true);
  assert.equal(b.fill(), 'end');
  assert.equal(text(b.read(4)), 'last');
  assert.throws(() => b.send(Buffer.from('x')), { name: 'SystemError', message: /the other end .* has closed.*EPIPE/ });
  b.close();
  b.close();
  assert.equal(openFds(), before.count);
});

test('a listener is handed on: whoever has connected can be accepted, also when its file is gone', TIMEOUT, () => {
  const before = openFds();
  const path = join(folder, 'handed-on');
  const first = UnixListener.listen(path);
  const [a, b] = UnixSocket.pair();
  a.send(Buffer.from('listener'), [first.fd]);
  b.fill();
  const fd = b.takeFd() ?? -1;
  assert.throws(() => UnixListener.fromFd(a.fd, path), {
    code: 'ERR_PAGEFAULT_WRONG_DESCRIPTOR',
    message: /that listens/,
  });
  const second = UnixListener.fromFd(fd, path);
  const guests = [UnixSocket.connect(path)];
  first.release(); // the other one listens on
  guests.push(UnixSocket.connect(path));
  second.removeFile();
  assert.throws(() => UnixSocket.connect(path), /there is no such file/);
  for (let i = 0; i < 2; i++) second.accept()?.close();
  assert.equal(second.accept(), undefined);
  for (const socket of [second, a, b, ...guests]) socket.close();
  second.close();
  first.close();
  assert.equal(openFds(), before);
});

test('a flood stays in the kernel once the queues are full', TIMEOUT, () => {
  const before = openFds();
  const [a, b] = UnixSocket.pair({ maxQueued: { byteLength: 100_000, fds: 10 } });
  const block = new Uint8Array(65536).fill(7);
  let sent = 0;
  for (let round = 0; round < 50; round++) {
    sent += a.send(block);
    assert.equal(b.fill(), 'data');
    assert.ok(b.available <= 100_000);
  }
  let got = 0;
  while (b.fill() === 'data') {
    const bytes = b.read(b.available);
    assert.ok(bytes?.every((byte) => byte === 7));
    got += bytes?.length ?? 0;
  }
  assert.equal(got, sent);
  for (let round = 0; round < 40; round++) a.send(block.subarray(0, 1), [a.fd]);
  assert.equal(b.fill(), 'data');
  assert.equal(b.fdCount, 10);
  for (let taken = 0; taken < 40; taken++) {
    closeFd(b.takeFd() ?? -1);
    b.fill();
  }
  assert.equal(b.fdCount, 0);
  a.close();
  b.close();
  assert.equal(openFds(), before);
});

test('short reads of a long stream give every byte in order', TIMEOUT, () => {
  const [a, b] = UnixSocket.pair();
  const bytes = Uint8Array.from({ length: 300_000 }, (_, i) => (i * 7 + (i >> 8)) & 255);
  let sent = 0;
  let got = 0;
  for (let step = 1; got < bytes.length; step = (step * 31) % 9973) {
    sent += a.send(bytes.subarray(sent, sent + 2 * step));
    b.fill();
    const part = b.read(Math.min(step, b.available));
    assert.ok(part !== undefined);
    assert.equal(Buffer.compare(part, bytes.subarray(got, got + part.length)), 0);
    got += part.length;
  }
  a.close();
  b.close();
});

test('onReadable tells of data and of the end, one watch at a time', TIMEOUT, async () => {
  const before = openFds();
  const [a, b] = UnixSocket.pair();
  const seen: string[] = [];
  const watching = b.onReadable(() => {
    const what = b.fill();
    seen.push(what === 'data' ? (text(b.read(b.available)) ?? '') : what);
    if (what === 'end') watching.close();
  });
  assert.throws(() => b.onReadable(() => {}), { message: /watched on this thread already/ });
  a.send(Buffer.from('hello'));
  await until(() => seen.includes('hello'));
  a.close();
  await until(() => seen.includes('end'));
  b.onReadable(() => {});
  b.close(); // and its watch with it
  assert.equal(openFds(), before);
});

test('a listener accepts who connects, knows who it is, and removes its file', TIMEOUT, async () => {
  const before = openFds();
  const path = join(folder, 'listen');
  const listener = UnixListener.listen(path, { mode: 0o600, backlog: 5 });
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.equal(listener.path, path);
  assert.equal(listener.accept(), undefined);
  const client = UnixSocket.connect(path);
  let server: UnixSocket | undefined;
  using watching = listener.onReadable(() => {
    server = listener.accept();
  });
  await until(() => server !== undefined);
  watching.close();
  const peer = { pid: process.pid, uid: process.getuid?.() ?? -1, gid: process.getgid?.() ?? -1 };
  assert.deepEqual(server?.peer(), peer);
  server?.send(Buffer.from('hi'));
  client.fill();
  assert.equal(text(client.read(2)), 'hi');
  server?.close();
  client.close();
  listener.close();
  listener.close();
  assert.equal(existsSync(path), false);
  assert.throws(() => listener.accept(), { code: 'ERR_PAGEFAULT_CLOSED', message: 'this UnixListener is closed' });
  assert.equal(openFds(), before);
});

test('a listener leaves alone what it did not make', TIMEOUT, () => {
  const path = join(folder, 'replaced');
  const listener = UnixListener.listen(path);
  unlinkSync(path);
  writeFileSync(path, 'of somebody else');
  listener.close();
  assert.equal(existsSync(path), true);
  assert.throws(() => UnixListener.listen(path), { name: 'SystemError', message: /the path exists/ });
  assert.throws(() => UnixSocket.connect(path), { message: /nobody listens there/ });
  unlinkSync(path);
});

test('a path that is missing, too long or no path is refused in a sentence', TIMEOUT, () => {
  const before = openFds();
  const long = join(folder, 'x'.repeat(108));
  const fits = join(folder, 'y'.repeat(107 - folder.length - 1));
  assert.throws(() => UnixSocket.connect(join(folder, 'none')), {
    name: 'SystemError',
    message: /there is no such file/,
  });
  assert.throws(() => UnixListener.listen(join(folder, 'no', 'where')), { message: /its directory does not exist/ });
  for (const act of [UnixSocket.connect, UnixListener.listen]) {
    assert.throws(() => act(long), { name: 'RangeError', message: /at most 107 bytes, and this one has \d+/ });
    assert.throws(() => act(''), RangeError);
    assert.throws(() => act('a\0b'), RangeError);
    assert.throws(() => act(7 as unknown as string), TypeError);
  }
  const listener = UnixListener.listen(fits);
  UnixSocket.connect(fits).close();
  listener.close();
  assert.equal(existsSync(fits), false);
  assert.throws(() => UnixListener.listen(fits, { backlog: -1 }), RangeError);
  assert.throws(() => UnixListener.listen(fits, { mode: 0o1000 }), RangeError);
  assert.throws(() => UnixListener.listen(fits, { modes: 1 } as object), { message: /did you mean 'mode'/ });
  assert.throws(() => UnixSocket.pair({ maxQueued: { fds: 0 } }), RangeError);
  assert.throws(() => UnixSocket.pair({ maxQueued: 1 as unknown as object }), TypeError);
  assert.equal(openFds(), before);
});

test('a listener whose queue is full says so to the next one', TIMEOUT, () => {
  const path = join(folder, 'full');
  const listener = UnixListener.listen(path, { backlog: 0 });
  const waiting = [UnixSocket.connect(path)];
  assert.throws(() => {
    for (let i = 0; i < 10; i++) waiting.push(UnixSocket.connect(path));
  }, /the queue of the listener is full/);
  for (const socket of waiting) socket.close();
  listener.close();
});

test('only a connected stream can be adopted, and a descriptor given away stays open', TIMEOUT, () => {
  const before = openFds();
  const [a, b] = UnixSocket.pair();
  const fd = a.intoFd();
  assert.equal(a.closed, true);
  const again = UnixSocket.fromFd(fd);
  again.send(Buffer.from('x'), [b.fd]);
  b.fill();
  assert.throws(() => b.intoFd(), { name: 'TypeError', message: /1 bytes and 1 descriptors are in the queues/ });
  const file = openSync('/proc/self/exe', 'r');
  const listener = UnixListener.listen(join(folder, 'adopt'));
  const wrong = { name: 'DescriptorError', code: 'ERR_PAGEFAULT_WRONG_DESCRIPTOR' };
  assert.throws(() => UnixSocket.fromFd(file), wrong);
  assert.throws(() => UnixSocket.fromFd(listener.fd), wrong);
  assert.throws(() => UnixSocket.fromFd(-1), RangeError);
  assert.throws(() => b.read(-1), RangeError);
  assert.throws(() => b.read(Number.NaN), RangeError);
  listener.close();
  closeFd(file);
  again.close();
  b.close();
  assert.equal(openFds(), before);
});

test('a descriptor reaches another process, and its net.Socket can talk to a listener', TIMEOUT, async () => {
  const before = openFds();
  const [a, b] = UnixSocket.pair();
  const source = `
    const { UnixSocket } = await import('pagefault/kernel');
    const socket = UnixSocket.fromFd(3);
    socket.onReadable(() => {
      if (socket.fill() === 'end') process.exit(0);
      const fd = socket.takeFd();
      if (fd === undefined) return;
      (await import('node:fs')).writeSync(fd, 'from the child');
    });`.replace('socket.onReadable(() =>', 'socket.onReadable(async () =>');
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], {
    stdio: ['ignore', 'inherit', 'inherit', b.fd],
  });
  b.close();
  const [ours, theirs] = UnixSocket.pair();
  a.send(new Uint8Array(1), [theirs.fd]);
  theirs.close();
  let done = false;
  using watching = ours.onReadable(() => {
    ours.fill();
    done = ours.available === 14;
  });
  await until(() => done, 30_000);
  watching.close();
  assert.equal(text(ours.read(14)), 'from the child');
  a.close();
  await until(() => child.exitCode === 0);
  ours.close();
  const listener = UnixListener.listen(join(folder, 'net'));
  const client = connect(listener.path);
  let server: UnixSocket | undefined;
  await until(() => {
    server ??= listener.accept();
    return server !== undefined;
  });
  client.end('from net');
  await until(() => server?.fill() === 'end');
  assert.equal(text(server?.read(8)), 'from net');
  server?.close();
  listener.close();
  await until(() => client.destroyed);
  assert.equal(openFds(), before);
});

test('the process at the other end can be had as a pidfd', TIMEOUT, () => {
  const before = openFds();
  const [a, b] = UnixSocket.pair();
  const peer = a.peerPidFd();
  assert.equal(peer.pid, process.pid);
  assert.equal(peer.isAlive(), true);
  peer.close();
  a.close();
  b.close();
  assert.equal(openFds(), before);
});
