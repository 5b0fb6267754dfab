/** What copies memory, shows it or hands it to another thread. */

import { Blob, Buffer } from 'node:buffer';
import { once } from 'node:events';
import { PassThrough, Readable } from 'node:stream';
import util from 'node:util';
import v8 from 'node:v8';
import { BroadcastChannel, MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads';
import { type Call, call, collect, filling } from './call.js';

const over = (bytes: Uint8Array): Buffer => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);

export const BUFFER: readonly Call[] = [
  call('`Buffer.from(view)`', (bytes) => Buffer.from(bytes)),
  call('`Buffer.concat`', (bytes) => Buffer.concat([bytes, bytes])),
  call('`Buffer.compare`', (bytes) => Buffer.compare(bytes, new Uint8Array(bytes))),
  call('`toString`', (bytes) =>
    ['utf8', 'latin1', 'base64', 'hex'].map((how) => over(bytes).toString(how as BufferEncoding)),
  ),
  call('`indexOf`', (bytes) => over(bytes).indexOf(Uint8Array.of(1, 8, 15, 23))),
  call('`readUInt32LE`', (bytes) => over(bytes).readUInt32LE(5)),
  filling('`buffer.copy`', (bytes) => Buffer.alloc(bytes.length, 'copied').copy(bytes)),
  filling('`fill`', (bytes) => over(bytes).fill('filled') && undefined),
  filling('`buffer.write`', (bytes) => over(bytes).write('wrïtten'.repeat(2000))),
  filling('`swap32`', (bytes) => over(bytes).swap32() && undefined),
];

export const STREAMS: readonly Call[] = [
  call('`Readable.from`', (bytes) => collect(Readable.from([bytes]).pipe(new PassThrough()))),
  call('`ReadableStream`', (bytes) => {
    const stream = new ReadableStream({
      start(controller) {
        controller.enqueue(bytes);
        controller.close();
      },
    });
    return collect(stream);
  }),
];

export const COMPRESSION: readonly Call[] = [
  call('`CompressionStream`', async (bytes) => {
    const stream = new CompressionStream('gzip');
    const writer = stream.writable.getWriter();
    const writing = writer.write(bytes).then(() => writer.close());
    const reading = collect(stream.readable as unknown as AsyncIterable<Uint8Array>);
    const [result] = await Promise.allSettled([reading, writing]);
    await writing;
    return result.status === 'fulfilled' ? result.value : undefined;
  }),
];

export const BYTE_STREAMS: readonly Call[] = [
  call("`ReadableStream` with `type: 'bytes'`", (bytes) => {
    const stream = new ReadableStream({
      type: 'bytes',
      start(controller) {
        controller.enqueue(bytes);
        controller.close();
      },
    });
    return collect(stream as unknown as AsyncIterable<Uint8Array>);
  }),
];

export const BYOB: readonly Call[] = [
  filling('`reader.read(view)` (BYOB)', async (bytes) => {
    const stream = new ReadableStream({
      type: 'bytes',
      pull(controller) {
        const { byobRequest } = controller as ReadableByteStreamController;
        if (byobRequest === null) return;
        (byobRequest.view as Uint8Array).fill(7);
        byobRequest.respond((byobRequest.view as Uint8Array).length);
      },
    });
    const { value } = await stream.getReader({ mode: 'byob' }).read(bytes);
    return value?.length;
  }),
];

export const BLOBS: readonly Call[] = [
  call('`new Blob`', async (bytes) => new Uint8Array(await new Blob([bytes]).arrayBuffer())),
];

export const SERIALIZED: readonly Call[] = [
  call('`v8.serialize`', (bytes) => v8.serialize(bytes).subarray(-bytes.length)),
];

export const CLONES: readonly Call[] = [
  call('`structuredClone`', (bytes) => structuredClone(bytes)),
  call('`port.postMessage`', (bytes) => {
    const { port1, port2 } = new MessageChannel();
    port1.postMessage(bytes);
    const received = receiveMessageOnPort(port2)?.message;
    port1.close();
    return received;
  }),
  call('`workerData`', async (bytes) => {
    const code =
      "const { parentPort, workerData } = require('worker_threads'); parentPort.postMessage(workerData.reduce((sum, byte) => sum + byte, 0));";
    const worker = new Worker(code, { eval: true, workerData: bytes });
    const ended = once(worker, 'exit');
    const [sum] = await once(worker, 'message');
    await ended;
    return sum;
  }),
  call('`BroadcastChannel`', async (bytes) => {
    const from = new BroadcastChannel('paged');
    const to = new BroadcastChannel('paged');
    const arriving = new Promise((resolve) => {
      to.onmessage = (event) => resolve((event as { data: unknown }).data);
    });
    from.postMessage(bytes);
    const received = await arriving;
    from.close();
    to.close();
    return received;
  }),
];

export const TRANSFERS: readonly Call[] = [
  call('`structuredClone` with `transfer`', (bytes) => structuredClone(bytes, { transfer: [bytes.buffer] })),
];

export const SHOWN: readonly Call[] = [
  call('`util.inspect`, `console.log`', (bytes) => [util.inspect(bytes), util.inspect(over(bytes))]),
  call('`util.isDeepStrictEqual`', (bytes) => util.isDeepStrictEqual(bytes, new Uint8Array(bytes))),
  call('`JSON.stringify`', (bytes) => JSON.stringify(bytes.subarray(0, 3))),
];
