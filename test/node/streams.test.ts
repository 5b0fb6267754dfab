/** `segment.createReadStream` and `segment.createWriteStream`. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createReadStream, createWriteStream, readFileSync } from 'node:fs';
import { PassThrough, Readable, Writable } from 'node:stream';
import { finished, pipeline } from 'node:stream/promises';
import { test } from 'node:test';
import { createGzip, gunzipSync } from 'node:zlib';
import { map, PageError, type SegmentReadStreamOptions } from 'pagefault';
import { memory } from 'pagefault/stores';
import { until } from '../helpers/descriptors.js';
import { knownStore, onEachBackend, onEachStore, patternBytes, patternFile, temporaryPath } from '../helpers/stores.js';
import { onEachWritable, onEachWritableBackend, PAGE, whileOpen, writable } from '../helpers/writable.js';

const LENGTH = 50 * PAGE + 77;

async function collect(stream: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  return new Uint8Array(Buffer.concat(chunks));
}

onEachStore('a stream brings the range, whatever its chunks and the budget', async (backend, kind) => {
  const store = knownStore(kind, LENGTH);
  const segment = await map(store.ref, { backend, resident: 4 * PAGE });
  for (const options of [{}, { offset: 5, byteLength: 3 * PAGE, highWaterMark: 1000 }, { offset: LENGTH }]) {
    const bytes = await collect(segment.createReadStream(options));
    const { offset = 0, byteLength = LENGTH - offset } = options as SegmentReadStreamOptions;
    assert.equal(bytes.length, byteLength);
    assert.equal(
      bytes.findIndex((byte, i) => byte !== store.byte(offset + i)),
      -1,
    );
  }
  await segment.close();
});

onEachBackend('chunks stay as they are when the segment is closed', async (backend) => {
  const segment = await map(memory(patternBytes(LENGTH)), { backend });
  const stream = segment.createReadStream({ highWaterMark: 10_000 });
  const [chunk] = (await once(stream, 'data')) as [Uint8Array];
  stream.pause();
  const failing = finished(stream);
  await segment.close();
  stream.resume();
  await assert.rejects(failing, { code: 'ERR_PAGEFAULT_CLOSED' });
  assert.deepEqual(new Uint8Array(chunk), patternBytes(10_000));
});

onEachBackend('a reader that is slow is waited for', async (backend) => {
  const segment = await map(memory(patternBytes(LENGTH)), { backend, readahead: 0 });
  const stream = segment.createReadStream({ highWaterMark: PAGE });
  await once(stream, 'readable');
  for (let i = 0; i < 20; i++) await new Promise(setImmediate);
  assert.ok(segment.stats().loads <= 2, `${segment.stats().loads} pages were read`);
  assert.deepEqual(await collect(stream), patternBytes(LENGTH));
  await segment.close();
});

onEachWritableBackend(
  'a page that cannot be had destroys it with a PageError, after what lies before',
  async (backend) => {
    const written = await writable(backend, 'custom sync', 16 * PAGE, { faultTimeoutMs: 5000 });
    await whileOpen(written, async ({ segment, control, model }) => {
      control.set('read', 'permanent', 4 * PAGE);
      const got: Uint8Array[] = [];
      const reading = (async () => {
        for await (const chunk of segment.createReadStream({ highWaterMark: PAGE })) got.push(chunk);
      })();
      await assert.rejects(reading, (error: PageError) => error instanceof PageError && error.offset === 4 * PAGE);
      assert.deepEqual(new Uint8Array(Buffer.concat(got)), model.subarray(0, 4 * PAGE));
      control.set('read', 'well');
      assert.deepEqual(await collect(segment.createReadStream()), model, 'a new one heals it');
    });
  },
);

onEachWritableBackend('destroy and abort end what it waits for, and nothing comes after', async (backend) => {
  const written = await writable(backend, 'custom sync', 16 * PAGE);
  await whileOpen(written, async ({ segment, control }) => {
    control.set('read', 'hold');
    const abort = new AbortController();
    const streams = [segment.createReadStream(), segment.createReadStream({ signal: abort.signal })];
    const seen: string[] = [];
    for (const stream of streams)
      stream.on('data', () => seen.push('data')).on('error', (error) => seen.push(error.name));
    await until(() => control.get('read', 'calls') > 0);
    const closed = streams.map((stream) => new Promise((resolve) => stream.once('close', resolve)));
    streams[0]?.destroy();
    abort.abort();
    await Promise.all(closed);
    control.put('read', 'go', 1);
    assert.deepEqual(seen, ['AbortError']);
  });
});

onEachWritable('a stream that is written goes to the segment and no further than it', async (backend, kind) => {
  const written = await writable(backend, kind, LENGTH, { resident: 4 * PAGE });
  await whileOpen(written, async ({ segment, model }) => {
    const other = patternBytes(LENGTH).reverse();
    await pipeline(
      Readable.from([other.subarray(0, 10), other.subarray(10, 9 * PAGE)]),
      segment.createWriteStream({ offset: 3 }),
    );
    model.set(other.subarray(0, 9 * PAGE), 3);
    assert.deepEqual(segment.read(0, LENGTH), model);
    const stream = segment.createWriteStream({ offset: PAGE, byteLength: 10 });
    await assert.rejects(pipeline(Readable.from([other.subarray(0, 7), other.subarray(7, 14)]), stream), {
      code: 'ERR_PAGEFAULT_OUT_OF_RANGE',
      message: /more was written than the 10 bytes from offset 4096/,
    });
    model.set(other.subarray(0, 10), PAGE);
    assert.deepEqual(segment.read(0, LENGTH), model);
    await segment.flush();
    assert.deepEqual(written.contents(), model);
  });
});

onEachWritableBackend('a stream that is destroyed between two pieces of a chunk writes no other', async (backend) => {
  const piece = 2 ** 20;
  const written = await writable(backend, 'file', 4 * piece);
  await whileOpen(written, async ({ segment, model }) => {
    const chunk = model.map((byte) => byte ^ 0xff);
    const stream = segment.createWriteStream();
    const last = chunk[piece - 1];
    stream.write(chunk);
    const deadline = Date.now() + 30_000;
    while (segment.read(piece - 1, 1)[0] !== last && Date.now() < deadline); // the loop does not hear of it
    const closed = once(stream, 'close');
    stream.destroy();
    await closed;
    for (let i = 0; i < 5; i++) await segment.load(); // behind whatever was still to be copied
    model.set(chunk.subarray(0, piece));
    assert.deepEqual(segment.read(0, 4 * piece), model);
  });
});

onEachWritableBackend('a refusal, a close and a destroy end a stream that is written', async (backend) => {
  const written = await writable(backend, 'custom onWrite', 8 * PAGE, { faultTimeoutMs: 5000 });
  await whileOpen(written, async ({ segment, control }) => {
    control.set('onWrite', 'permanent', PAGE);
    await assert.rejects(pipeline(Readable.from([patternBytes(3 * PAGE)]), segment.createWriteStream()), PageError);
    control.set('onWrite', 'hold', 2 * PAGE);
    const stream = segment.createWriteStream({ offset: 2 * PAGE });
    stream.write(patternBytes(PAGE));
    await until(() => control.get('onWrite', 'lastOffset') === 2 * PAGE);
    const closed = once(stream, 'close');
    stream.destroy();
    await closed;
    const other = segment.createWriteStream({ offset: 3 * PAGE });
    other.write(patternBytes(PAGE));
    await until(() => control.get('onWrite', 'lastOffset') === 3 * PAGE);
    const failing = finished(other);
    const closing = segment.close({ discard: true });
    await assert.rejects(failing, { code: 'ERR_PAGEFAULT_CLOSED' });
    control.put('onWrite', 'go', 1);
    await closing;
  });
});

onEachWritableBackend('it fits between files, compression, Web streams and itself', async (backend) => {
  const written = await writable(backend, 'file', LENGTH, { resident: 8 * PAGE });
  await whileOpen(written, async ({ segment, model }) => {
    const path = temporaryPath();
    await pipeline(segment.createReadStream(), createGzip(), createWriteStream(path));
    assert.deepEqual(new Uint8Array(gunzipSync(readFileSync(path))), model);
    await pipeline(
      segment.createReadStream({ byteLength: 20 * PAGE }),
      segment.createWriteStream({ offset: 20 * PAGE }),
    );
    model.copyWithin(20 * PAGE, 0, 20 * PAGE);
    assert.deepEqual(segment.read(0, LENGTH), model);
    const web = new Response(Readable.toWeb(segment.createReadStream()) as ReadableStream);
    assert.deepEqual(new Uint8Array(await web.arrayBuffer()), model);
    await pipeline(createReadStream(patternFile(LENGTH)), new PassThrough(), segment.createWriteStream());
    const sink = Writable.toWeb(segment.createWriteStream({ offset: 5 }));
    await new Blob([patternBytes(100)]).stream().pipeTo(sink);
    const expected = patternBytes(LENGTH);
    expected.set(patternBytes(100), 5);
    assert.deepEqual(segment.read(0, LENGTH), expected);
  });
});

const wrong: [string, unknown, RegExp][] = [
  ['a misspelt option', { highwatermark: 1 }, /did you mean 'highWaterMark'/],
  ['an option of fs', { start: 1 }, /no option 'start'/],
  ['no room', { highWaterMark: 0 }, /highWaterMark must be a whole number from 1/],
  ['too much', { highWaterMark: 2 ** 31 }, /at most 1 GiB/],
  ['a text', { offset: '1' }, /offset must be a number/],
  ['too far', { offset: 2 * PAGE }, /past the end/],
  ['too long', { byteLength: 2 * PAGE }, /reach past the end/],
  ['no signal', { signal: 1 }, /must be an AbortSignal/],
  ['no options', null, /options must be an object/],
];

test('each wrong option of a stream is refused with a sentence, at once', async () => {
  const segment = await map(memory(new Uint8Array(new SharedArrayBuffer(PAGE))), { writable: true });
  for (const [what, options, sentence] of wrong) {
    for (const method of ['createReadStream', 'createWriteStream'] as const) {
      assert.throws(
        () => segment[method](options as SegmentReadStreamOptions),
        (error: Error) => sentence.test(error.message) && error.message.startsWith(`${method}():`),
        what,
      );
    }
  }
  await segment.close();
  assert.throws(() => segment.createReadStream(), { code: 'ERR_PAGEFAULT_CLOSED' });
  const readOnly = await map(memory(patternBytes(PAGE)));
  assert.throws(() => readOnly.createWriteStream(), { code: 'ERR_PAGEFAULT_READ_ONLY' });
  await readOnly.close();
});
