/** `segment.writeTo` and `segment.readFrom`: what arrives, what an end in the middle leaves, and what is said of wrong arguments. */

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import { open as openFile } from 'node:fs/promises';
import net from 'node:net';
import { test } from 'node:test';
import { map, PageError, type TransferOptions } from 'pagefault';
import { file, memory } from 'pagefault/stores';
import { openFds, openFifo, until } from '../helpers/descriptors.js';
import { onEachBackend, patternBytes, patternFile, temporaryPath } from '../helpers/stores.js';
import { onEachWritable, onEachWritableBackend, PAGE, whileOpen, writable } from '../helpers/writable.js';

const LENGTH = 40 * PAGE + 123;

function emptyFile(): number {
  return fs.openSync(temporaryPath(), 'w+');
}

function contentsOf(fd: number): Uint8Array {
  const bytes = new Uint8Array(fs.fstatSync(fd).size);
  assert.equal(fs.readSync(fd, bytes, 0, bytes.length, 0), bytes.length);
  return bytes;
}

/** Two descriptors of a pipe, neither of which Node knows of: [to read, to write]. */
function pipe(): [number, number] {
  const both = openFifo();
  const path = `/proc/self/fd/${both}`;
  const reads = fs.openSync(path, fs.constants.O_RDONLY | fs.constants.O_NONBLOCK);
  const writes = fs.openSync(path, fs.constants.O_WRONLY);
  fs.closeSync(both);
  return [reads, writes];
}

/** What is in a pipe now. */
function drain(fd: number): Uint8Array {
  const bytes = new Uint8Array(1 << 20);
  let length = 0;
  try {
    for (let got = 1; got > 0; length += got) got = fs.readSync(fd, bytes, length, bytes.length - length, null);
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, 'EAGAIN');
  }
  return bytes.subarray(0, length);
}

onEachWritable(
  'what is written to a file and read back is what the segment has, unaligned and within four pages',
  async (backend, kind) => {
    const written = await writable(backend, kind, LENGTH, { resident: 4 * PAGE });
    await whileOpen(written, async ({ segment, model }) => {
      const fd = emptyFile();
      const progress: number[] = [];
      const offset = 5;
      const byteLength = LENGTH - 11;
      const wrote = await segment.writeTo(fd, { offset, byteLength, onProgress: (bytes) => progress.push(bytes) });
      assert.equal(wrote, byteLength);
      assert.equal(progress.at(-1), byteLength);
      assert.deepEqual(contentsOf(fd), model.subarray(offset, offset + byteLength));

      const other = patternBytes(LENGTH).reverse();
      fs.writeSync(fd, other, 0, byteLength, 0);
      assert.equal(await segment.readFrom(fd, { offset, byteLength, position: 0 }), byteLength);
      model.set(other.subarray(0, byteLength), offset);
      assert.deepEqual(segment.read(0, LENGTH), model);
      await segment.flush();
      assert.deepEqual(written.contents(), model, 'and the store has it');
      fs.closeSync(fd);
    });
  },
);

onEachWritableBackend('position leaves the place of the descriptor alone, and without it it moves', async (backend) => {
  const written = await writable(backend, 'memory', 8 * PAGE);
  await whileOpen(written, async ({ segment, model }) => {
    const handle = await openFile(temporaryPath(), 'w+');
    try {
      await segment.writeTo(handle, { byteLength: 10 });
      await segment.writeTo(handle, { offset: 10, byteLength: 20, position: null });
      await segment.writeTo(handle, { offset: PAGE, byteLength: 7, position: 100 });
      await segment.writeTo(handle, { offset: 30, byteLength: 1 });
      assert.deepEqual(contentsOf(handle.fd).subarray(0, 31), model.subarray(0, 31));
      assert.deepEqual(contentsOf(handle.fd).subarray(100), model.subarray(PAGE, PAGE + 7));
      assert.equal(await segment.readFrom(handle, { offset: 3 * PAGE, position: 100 }), 7, 'the file ends');
      assert.equal(await segment.readFrom(handle, { offset: 4 * PAGE }), 107 - 31);
      assert.deepEqual(segment.read(3 * PAGE, 7), model.subarray(PAGE, PAGE + 7));
      assert.equal(await segment.readFrom(handle), 0, 'it is at its end');
      assert.equal(await segment.writeTo(handle, { byteLength: 0 }), 0);
      assert.equal(await segment.readFrom(handle, { offset: 8 * PAGE }), 0);
    } finally {
      await handle.close();
    }
  });
});

onEachWritableBackend('a pipe and a socket, smaller than what goes through them, bring all of it', async (backend) => {
  const length = 100 * PAGE + 9;
  const from = await writable(backend, 'memory', length);
  const into = await writable(backend, 'custom async', length, { resident: 4 * PAGE });
  await whileOpen(from, ({ segment: source, model }) =>
    whileOpen(into, async ({ segment: target }) => {
      const [reads, writes] = pipe();
      target.write(0, new Uint8Array(length));
      const reading = target.readFrom(reads);
      assert.equal(await source.writeTo(writes), length);
      fs.closeSync(writes);
      fs.closeSync(reads);
      assert.equal(await reading, length);
      assert.deepEqual(target.read(0, length), model);

      target.write(0, new Uint8Array(length));
      const server = net.createServer({ pauseOnConnect: true }).listen(0);
      const client = net.connect((server.address() as net.AddressInfo).port);
      const peer = await new Promise<net.Socket>((resolve) => server.once('connection', resolve));
      const fdOf = (socket: net.Socket): number => (socket as unknown as { _handle: { fd: number } })._handle.fd;
      const receiving = target.readFrom(fdOf(peer));
      assert.equal(await source.writeTo(fdOf(client)), length);
      client.end();
      assert.equal(await receiving, length);
      assert.deepEqual(target.read(0, length), model);
      peer.destroy();
      server.close();
    }),
  );
});

onEachBackend('an abort while the pipe is full says how much went, and nothing is lost or doubled', async (backend) => {
  const length = 64 * PAGE;
  const segment = await map(memory(patternBytes(length)), { backend });
  const [reads, writes] = pipe();
  try {
    let wrote = 0;
    const abort = new AbortController();
    const reason = new Error('enough');
    const onProgress = (bytes: number): void => {
      wrote = bytes;
    };
    const writing = segment.writeTo(writes, { signal: abort.signal, onProgress });
    await until(() => segment.stats().loads > 0);
    abort.abort(reason);
    await assert.rejects(writing, (error) => error === reason);
    assert.deepEqual(drain(reads), patternBytes(length).subarray(0, wrote));
    assert.equal(await segment.writeTo(writes, { offset: wrote, byteLength: 100 }), 100);
    assert.deepEqual(drain(reads), patternBytes(length).subarray(wrote, wrote + 100));
    await assert.rejects(segment.writeTo(writes, { signal: AbortSignal.abort(reason) }), (error) => error === reason);
    assert.equal(drain(reads).length, 0);
  } finally {
    fs.closeSync(reads);
    fs.closeSync(writes);
    await segment.close();
  }
});

onEachWritableBackend('what comes through a pipe after an abort is still in the pipe', async (backend) => {
  const written = await writable(backend, 'custom sync', 8 * PAGE);
  await whileOpen(written, async ({ segment, control }) => {
    const [reads, writes] = pipe();
    const abort = new AbortController();
    const reading = segment.readFrom(reads, { offset: 7, signal: abort.signal });
    control.set('read', 'hold');
    fs.writeSync(writes, 'not lost');
    await until(() => control.get('read', 'calls') > 0);
    abort.abort();
    await assert.rejects(reading, { name: 'AbortError' });
    control.put('read', 'go', 1);
    assert.equal(Buffer.from(drain(reads)).toString(), 'not lost');
    fs.closeSync(reads);
    fs.closeSync(writes);
  });
});

onEachWritableBackend(
  'a page that the store cannot bring ends it there, with what lies before, and the file can be read on',
  async (backend) => {
    const written = await writable(backend, 'custom sync', 16 * PAGE, { faultTimeoutMs: 5000 });
    await whileOpen(written, async ({ segment, control, model }) => {
      control.set('read', 'permanent', 5 * PAGE);
      const fd = emptyFile();
      await assert.rejects(segment.writeTo(fd, { offset: 100 }), (error: PageError) => {
        assert.ok(error instanceof PageError);
        assert.equal(error.code, 'ERR_PAGEFAULT_STORE');
        assert.equal(error.offset, 5 * PAGE);
        return true;
      });
      assert.deepEqual(contentsOf(fd), model.subarray(100, 5 * PAGE));

      const source = fs.openSync(patternFile(16 * PAGE), 'r');
      let read = 0;
      const onProgress = (bytes: number): void => {
        read = bytes;
      };
      await assert.rejects(segment.readFrom(source, { offset: 10, onProgress }), { code: 'ERR_PAGEFAULT_STORE' });
      assert.equal(read, 5 * PAGE - 10);
      control.set('read', 'well');
      assert.equal(await segment.readFrom(source, { offset: 5 * PAGE }), 11 * PAGE, 'it heals what had failed');
      assert.deepEqual(segment.read(10, 16 * PAGE - 10), patternBytes(16 * PAGE - 10), 'no byte is missing in between');
      fs.closeSync(fd);
      fs.closeSync(source);
    });
  },
);

onEachWritableBackend('what the store refuses to have written ends it, and the pipe still has it', async (backend) => {
  const written = await writable(backend, 'custom onWrite', 4 * PAGE, { faultTimeoutMs: 5000 });
  await whileOpen(written, async ({ segment, control, model }) => {
    const [reads, writes] = pipe();
    control.set('onWrite', 'permanent');
    fs.writeSync(writes, 'kept');
    await assert.rejects(segment.readFrom(reads), PageError);
    assert.deepEqual(segment.read(0, PAGE), model.subarray(0, PAGE));
    assert.equal(Buffer.from(drain(reads)).toString(), 'kept');
    fs.closeSync(reads);
    fs.closeSync(writes);
  });
});

onEachWritableBackend('closing the segment ends it with ClosedError, whatever it waits for', async (backend) => {
  for (const waitsFor of ['the pipe', 'the store'] as const) {
    const written = await writable(backend, 'custom sync', 64 * PAGE);
    const [reads, writes] = pipe();
    if (waitsFor === 'the store') written.control.set('read', 'hold');
    const writing = assert.rejects(written.segment.writeTo(writes), { code: 'ERR_PAGEFAULT_CLOSED' });
    const [empty, other] = pipe();
    const reading = assert.rejects(written.segment.readFrom(empty), { code: 'ERR_PAGEFAULT_CLOSED' });
    await until(() => written.control.get('read', 'calls') > 0);
    const closing = written.segment.close({ discard: true });
    await writing;
    await reading;
    written.control.put('read', 'go', 1);
    await closing;
    await assert.rejects(written.segment.writeTo(writes), { code: 'ERR_PAGEFAULT_CLOSED' });
    for (const fd of [reads, writes, empty, other]) fs.closeSync(fd);
  }
});

onEachBackend(
  'a descriptor that is closed meanwhile, and its number given to another file, does no harm',
  async (backend) => {
    const length = 64 * PAGE;
    const before = openFds();
    const segment = await map(memory(patternBytes(length)), { backend });
    const [reads, writes] = pipe();
    const writing = segment.writeTo(writes);
    fs.closeSync(writes);
    const innocent = emptyFile();
    assert.equal(innocent, writes, 'the number is used again');
    const got: Uint8Array[] = [];
    let length_ = 0;
    await until(() => {
      got.push(drain(reads).slice());
      length_ += got.at(-1)?.length ?? 0;
      return length_ === length;
    });
    assert.equal(await writing, length);
    assert.deepEqual(new Uint8Array(Buffer.concat(got)), patternBytes(length));
    assert.equal(fs.fstatSync(innocent).size, 0);
    assert.equal(fs.readSync(reads, new Uint8Array(1)), 0, 'nobody holds the pipe any more');
    fs.closeSync(innocent);
    fs.closeSync(reads);
    await segment.close();
    await until(() => openFds() <= before);
  },
);

onEachWritableBackend('what a descriptor refuses is a SystemError that says how far it got', async (backend) => {
  const written = await writable(backend, 'memory', 64 * PAGE);
  await whileOpen(written, async ({ segment }) => {
    const fails = (doing: Promise<number>, code: string, said: RegExp, offset = 0): Promise<void> =>
      assert.rejects(doing, (error: NodeJS.ErrnoException & { offset?: number }) => {
        assert.equal(error.name, 'SystemError');
        assert.equal(error.code, 'ERR_PAGEFAULT_SYSTEM');
        assert.equal((error.cause as NodeJS.ErrnoException).code, code);
        assert.match(error.message, said);
        assert.equal(error.offset, offset);
        return true;
      });
    const [reads, writes] = pipe();
    await fails(segment.writeTo(reads), 'EBADF', /not open for writing/);
    await fails(segment.readFrom(writes), 'EBADF', /not open for reading/);
    await fails(segment.writeTo(writes, { position: 0 }), 'ESPIPE', /has no position/);
    await fails(segment.writeTo(900_000, { offset: 5 }), 'EBADF', /descriptor 900000/, 5);
    fs.closeSync(reads);
    await fails(segment.writeTo(writes), 'EPIPE', /nobody reads/);
    fs.closeSync(writes);
    const full = fs.openSync('/dev/full', 'w');
    await fails(segment.writeTo(full, { offset: 77 }), 'ENOSPC', /disk is full/, 77);
    fs.closeSync(full);
    const folder = fs.openSync('/tmp', 'r');
    await fails(segment.readFrom(folder), 'EISDIR', /EISDIR/);
    fs.closeSync(folder);
    const zeroes = fs.openSync('/dev/zero', 'r');
    assert.equal(await segment.readFrom(zeroes), 64 * PAGE);
    assert.deepEqual(segment.read(0, 64 * PAGE), new Uint8Array(64 * PAGE));
    fs.closeSync(zeroes);
  });
});

onEachBackend('a store that shrinks under it is an error, a source that shrinks is its end', async (backend) => {
  const path = patternFile(32 * PAGE);
  const segment = await map(file(path), { backend, readahead: 0, faultTimeoutMs: 2000 });
  const fd = emptyFile();
  await segment.load(0, 2 * PAGE);
  fs.truncateSync(path, 4 * PAGE);
  await assert.rejects(segment.writeTo(fd), { code: 'ERR_PAGEFAULT_STORE_CHANGED', offset: 2 * PAGE });
  assert.deepEqual(contentsOf(fd), patternBytes(2 * PAGE));
  fs.closeSync(fd);
  await segment.close();
});

const wrong: [string, unknown, unknown, RegExp][] = [
  ['a path', '/tmp/x', {}, /descriptor or a FileHandle, not '\/tmp\/x'; open the file first/],
  ['nothing', undefined, {}, /not undefined/],
  ['a stream', process.stdout, {}, /use pipeline\(\)/],
  ['a negative number', -1, {}, /-1 is not a descriptor/],
  ['a closed FileHandle', { fd: -1 }, {}, /FileHandle is closed/],
  ['a misspelt option', 1, { lenght: 3 }, /no option 'lenght'/],
  ['a name of another method', 1, { length: 3 }, /did you mean 'byteLength'\?|known are/],
  ['a negative position', 1, { position: -1 }, /position must be a whole number/],
  ['a text as position', 1, { position: '0' }, /position must be a number/],
  ['a range that is too long', 1, { byteLength: 10 ** 9 }, /reach past the end/],
  ['an offset behind the end', 1, { offset: 10 ** 9 }, /past the end/],
  ['a signal that is none', 1, { signal: {} }, /signal must be an AbortSignal/],
  ['a progress that is no function', 1, { onProgress: 1 }, /onProgress must be a function/],
  ['options that are none', 1, 5, /options must be an object/],
];

test('each wrong argument is refused with a sentence, before anything is written', async () => {
  const segment = await map(memory(new Uint8Array(new SharedArrayBuffer(PAGE))), { writable: true });
  for (const [what, target, options, sentence] of wrong) {
    for (const method of ['writeTo', 'readFrom'] as const) {
      const said = (error: Error): boolean => {
        assert.ok(error instanceof TypeError || error instanceof RangeError, what);
        assert.match(error.message, sentence);
        return error.message.startsWith(`${method}():`);
      };
      await assert.rejects(segment[method](target as number, options as TransferOptions), said, what);
    }
  }
  await segment.close();
  const readOnly = await map(memory(patternBytes(PAGE)));
  await assert.rejects(readOnly.readFrom(0), { code: 'ERR_PAGEFAULT_READ_ONLY' });
  await readOnly.close();
});

onEachBackend('a file system without room takes what fits, and the error says how much', async (backend, t) => {
  const folder = fs.mkdtempSync(`${temporaryPath()}-`);
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${8 * PAGE}`, 'tmpfs', folder], { stdio: 'ignore' });
  } catch {
    t.skip('no file system can be mounted here');
    return;
  }
  const segment = await map(memory(patternBytes(64 * PAGE)), { backend });
  try {
    const fd = fs.openSync(`${folder}/file`, 'w+');
    let wrote = 0;
    const writing = segment.writeTo(fd, {
      onProgress(bytes) {
        wrote = bytes;
      },
    });
    await assert.rejects(writing, (error: PageError) => {
      assert.equal((error.cause as NodeJS.ErrnoException).code, 'ENOSPC');
      assert.ok(wrote > 0 && error.offset === wrote, `${wrote} ${error.offset}`);
      return true;
    });
    assert.deepEqual(contentsOf(fd), patternBytes(wrote));
    fs.closeSync(fd);
  } finally {
    execFileSync('umount', ['-l', folder]);
    await segment.close();
  }
});
