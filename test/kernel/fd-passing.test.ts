/** sendFds and receiveFds: one message at a time, and what is refused. */
import assert from 'node:assert/strict';
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { closeFd, receiveFds, sendFds, UnixSocket } from 'pagefault/kernel';
import { openFds } from '../helpers/descriptors.js';

const TIMEOUT = { timeout: 60_000 };

function fixture(): { a: UnixSocket; b: UnixSocket; file: number; before: number; end: () => void } {
  const before = openFds();
  const [a, b] = UnixSocket.pair();
  const file = openSync('/proc/self/exe', 'r');
  const end = (): void => {
    a.close();
    b.close();
    closeSync(file);
    assert.equal(openFds(), before);
  };
  return { a, b, file, before, end };
}

const cloexec = (fd: number): boolean => {
  const flags = /^flags:\s*(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'latin1'))?.[1] ?? '';
  return (Number.parseInt(flags, 8) & 0o2000000) !== 0;
};

test('a descriptor arrives as another number for the same file, close-on-exec', TIMEOUT, () => {
  const { a, b, file, end } = fixture();
  assert.equal(receiveFds(b), undefined);
  assert.equal(sendFds(a, [file]), 1);
  const got = receiveFds(b.fd);
  assert.deepEqual(got?.bytes, new Uint8Array(1));
  const [received = -1] = got?.fds ?? [];
  assert.notEqual(received, file);
  assert.equal(fstatSync(received).ino, fstatSync(file).ino);
  assert.equal(cloexec(received), true);
  closeFd(received);
  end();
});

test('253 descriptors go at once, and 254 are refused before anything is sent', TIMEOUT, () => {
  const { a, b, file, end } = fixture();
  assert.throws(() => sendFds(a, Array(254).fill(file)), { name: 'RangeError', message: /at most 253 descriptors/ });
  assert.equal(sendFds(a, Array(253).fill(file), Buffer.from('all')), 3);
  const got = receiveFds(b);
  assert.equal(got?.fds.length, 253);
  assert.equal(Buffer.from(got?.bytes ?? []).toString(), 'all');
  for (const fd of got?.fds ?? []) closeFd(fd);
  end();
});

test('bytes sent before come glued to the message with the descriptor, and bytes behind it do not', TIMEOUT, () => {
  const { a, b, file, end } = fixture();
  a.send(Buffer.from('1234'));
  a.send(Buffer.from('5678'));
  sendFds(a, [file], Buffer.from('9'));
  a.send(Buffer.from('after'));
  const first = receiveFds(b);
  assert.equal(Buffer.from(first?.bytes ?? []).toString(), '123456789');
  assert.equal(first?.fds.length, 1);
  assert.equal(Buffer.from(receiveFds(b)?.bytes ?? []).toString(), 'after');
  a.close();
  assert.equal(receiveFds(b)?.bytes.length, 0);
  for (const fd of first?.fds ?? []) closeFd(fd);
  end();
});

test('when more descriptors come than there is room for, none is left open and the error says so', TIMEOUT, () => {
  const { a, b, file, end } = fixture();
  for (const [sent, maxFds] of [
    [2, 0],
    [2, 1],
    [6, 5],
    [253, 252],
  ] as const) {
    sendFds(a, Array(sent).fill(file));
    const before = openFds();
    assert.throws(() => receiveFds(b, { maxFds }), {
      name: 'DescriptorError',
      code: 'ERR_PAGEFAULT_TRUNCATED',
      message: /more descriptors were sent/,
    });
    assert.equal(openFds(), before);
  }
  end();
});

test('a full socket takes nothing and no descriptor', TIMEOUT, () => {
  const { a, b, file, end } = fixture();
  const block = new Uint8Array(65536);
  while (sendFds(a, [], block) > 0);
  assert.equal(sendFds(a, [file], block), 0);
  let fds = 0;
  for (let got = receiveFds(b); got !== undefined; got = receiveFds(b)) fds += got.fds.length;
  assert.equal(fds, 0);
  end();
});

test('what is no Unix socket, not open or not a number is refused in a sentence', TIMEOUT, () => {
  const { a, b, file, end } = fixture();
  const wrong = { name: 'DescriptorError', code: 'ERR_PAGEFAULT_WRONG_DESCRIPTOR' };
  assert.throws(() => sendFds(file, [file]), { ...wrong, message: /needs a Unix socket, but descriptor \d+ is \// });
  assert.throws(() => receiveFds(file), { ...wrong, message: /needs a Unix socket, but descriptor \d+ is \// });
  assert.throws(() => receiveFds(987_654), { ...wrong, message: /is not open/ });
  assert.throws(() => sendFds(a, [file, 987_654]), { ...wrong, message: /descriptor 987654 is not open/ });
  assert.throws(() => sendFds(a, [-1]), RangeError);
  assert.throws(() => sendFds(a, [Number.NaN]), RangeError);
  assert.throws(() => sendFds(-5, []), RangeError);
  assert.throws(() => sendFds(a, [file], new Uint8Array(0)), { name: 'RangeError', message: /at least one byte/ });
  assert.throws(() => sendFds(a, 3 as unknown as number[]), TypeError);
  assert.throws(() => sendFds(a, [], 'text' as unknown as Uint8Array), TypeError);
  assert.throws(() => sendFds('a' as unknown as number, []), TypeError);
  assert.throws(() => receiveFds(b, { maxFds: 254 }), RangeError);
  assert.throws(() => receiveFds(b, { byteLength: 0 }), RangeError);
  assert.throws(() => receiveFds(b, { maxFD: 1 } as object), { message: /did you mean 'maxFds'/ });
  assert.throws(() => closeFd(987_654), { ...wrong, message: /is not open/ });
  assert.throws(() => closeFd(-1), RangeError);
  assert.equal(receiveFds(b), undefined);
  b.close();
  assert.throws(() => sendFds(a, [file]), {
    name: 'SystemError',
    syscall: 'sendmsg',
    message: /other end .* has closed/,
  });
  assert.throws(() => sendFds(b, [file]), { code: 'ERR_PAGEFAULT_CLOSED' });
  end();
});
