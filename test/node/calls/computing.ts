/** `zlib`, `crypto`, text and WebAssembly with paged memory. */

import crypto from 'node:crypto';
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import { type Call, call, calledBack, collect, filling } from './call.js';

const KEY = new Uint8Array(32).fill(3);
const IV = new Uint8Array(16).fill(4);

/** A module with two functions, of at least this many bytes: the rest is a section of its own. */
export function wasmModule(length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  bytes.set([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0]);
  const rest = length - 8 - 1 - 5;
  const size = [rest & 127, (rest >> 7) & 127, (rest >> 14) & 127, (rest >> 21) & 127].map((part) => part | 0x80);
  bytes.set([0, ...size, 0], 8); // custom section, its length in five bytes
  bytes.set([4, ...Buffer.from('name')], 14); // its name; what follows is anything
  return bytes;
}

export const ZLIB: readonly Call[] = [
  call('`zlib.gzipSync`', (bytes) => zlib.gzipSync(bytes)),
  call('`zlib.gzip`', (bytes) => promisify(zlib.gzip)(bytes)),
  call('`zlib.brotliCompressSync`', (bytes) =>
    zlib.brotliCompressSync(bytes, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 1 } }),
  ),
  call('`zlib.createGzip`', (bytes) => {
    const stream = zlib.createGzip();
    stream.end(bytes);
    return collect(stream);
  }),
];

export const CRYPTO: readonly Call[] = [
  call('`crypto.createHash`', (bytes) => crypto.createHash('sha256').update(bytes).digest()),
  call('`crypto.createHmac`', (bytes) => crypto.createHmac('sha256', KEY).update(bytes).digest()),
  call('`crypto.createCipheriv`', (bytes) => crypto.createCipheriv('aes-256-ctr', KEY, IV).update(bytes)),
  call('`crypto.timingSafeEqual`', (bytes) => crypto.timingSafeEqual(bytes, bytes)),
];

export const RANDOM: readonly Call[] = [
  { name: '`crypto.randomFillSync`', act: (bytes) => crypto.randomFillSync(bytes) && undefined, fills: 'random' },
  {
    name: '`crypto.randomFill`',
    act: (bytes) => calledBack((done) => crypto.randomFill(bytes, done)).then(() => undefined),
    fills: 'random',
  },
  { name: '`crypto.getRandomValues`', act: (bytes) => crypto.getRandomValues(bytes) && undefined, fills: 'random' },
];

export const SUBTLE: readonly Call[] = [
  call('`crypto.subtle.digest`', async (bytes) => new Uint8Array(await crypto.subtle.digest('SHA-256', bytes))),
  call('`crypto.subtle.encrypt`', async (bytes) => {
    const key = await crypto.subtle.importKey('raw', KEY, 'AES-CTR', false, ['encrypt']);
    return new Uint8Array(await crypto.subtle.encrypt({ name: 'AES-CTR', counter: IV, length: 64 }, key, bytes));
  }),
];

export const TEXT: readonly Call[] = [
  call('`TextDecoder.decode`', (bytes) => new TextDecoder().decode(bytes)),
  call("`new TextDecoder('utf-16le')`", (bytes) => new TextDecoder('utf-16le').decode(bytes)),
  filling('`TextEncoder.encodeInto`', (bytes) => new TextEncoder().encodeInto('päge'.repeat(3000), bytes)),
];

interface Wasm {
  Module: (new (bytes: Uint8Array) => object) & { exports(module: object): unknown };
  validate(bytes: Uint8Array): boolean;
  compile(bytes: Uint8Array): Promise<object>;
  instantiate(bytes: Uint8Array): Promise<{ instance: { exports: object } }>;
}
const WebAssembly = (globalThis as unknown as { WebAssembly: Wasm }).WebAssembly;

export const WASM: readonly Call[] = [
  call('`new WebAssembly.Module`', (bytes) => WebAssembly.Module.exports(new WebAssembly.Module(bytes))),
  call('`WebAssembly.validate`', (bytes) => WebAssembly.validate(bytes)),
  call('`WebAssembly.compile`', async (bytes) => WebAssembly.Module.exports(await WebAssembly.compile(bytes))),
  call('`WebAssembly.instantiate`', async (bytes) =>
    Object.keys((await WebAssembly.instantiate(bytes)).instance.exports),
  ),
];
