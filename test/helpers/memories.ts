/** Memory that exists, of each kind that can be paged. */

import type { Backend, MapOptions } from 'pagefault';
import { makeMemory, WASM_PAGE } from '../fixtures/wasm.js';
import { onEachBackend } from './stores.js';
import { PAGE } from './writable.js';

export const memoryKinds = [
  'ArrayBuffer',
  'SharedArrayBuffer',
  'WebAssembly.Memory',
  'shared WebAssembly.Memory',
] as const;
export type MemoryKind = (typeof memoryKinds)[number];
export type Given = NonNullable<MapOptions['into']>;

/** What the memory holds before it is given. */
export const OLD = 0xaa;

export function bufferOf(into: Given): ArrayBufferLike {
  return into instanceof ArrayBuffer || into instanceof SharedArrayBuffer ? into : into.buffer;
}

/** Memory of at least so many bytes, and some more, full of old contents, that every backend can page. */
export function given(kind: MemoryKind, byteLength: number): Given {
  const pages = Math.ceil(byteLength / WASM_PAGE) + 1;
  const make = (): Given => {
    if (kind === 'ArrayBuffer') return new ArrayBuffer(byteLength + 3 * PAGE);
    if (kind === 'SharedArrayBuffer') return new SharedArrayBuffer(byteLength + 3 * PAGE);
    return makeMemory(pages, pages, kind.startsWith('shared'));
  };
  const into = make();
  new Uint8Array(bufferOf(into)).fill(OLD);
  return into;
}

/** One test for each backend and kind of memory. */
export function onEachMemory(name: string, body: (backend: Backend, kind: MemoryKind) => Promise<void>): void {
  for (const kind of memoryKinds) onEachBackend(`${name} [${kind}]`, (backend) => body(backend, kind));
}
