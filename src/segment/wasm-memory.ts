/**
 * What is to be known of a WebAssembly.Memory: that it is one, and how far it can grow, which it does not say. Any thread. The global is described
 * here because the types of Node.js 20 do not have it.
 */

import { types } from 'node:util';

/** A WebAssembly.Memory, shared or not. */
export interface WasmMemory {
  /** Another one after each `grow`, except where the memory is shared. */
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  /** In pages of 64 KiB; a bigint where addresses have 64 bits. */
  grow(delta: never): unknown;
}

interface Wasm {
  Memory: { prototype: WasmMemory };
  Module: new (bytes: Uint8Array) => object;
  Instance: new (module: object, imports: object) => object;
}

/** Bytes of a page of WebAssembly. */
export const WASM_PAGE = 65_536;

/** Undefined where the runtime has none (`--jitless`). */
const wasm = (globalThis as { WebAssembly?: Wasm }).WebAssembly;

const getBuffer: ((this: unknown) => WasmMemory['buffer']) | undefined =
  wasm === undefined ? undefined : Object.getOwnPropertyDescriptor(wasm.Memory.prototype, 'buffer')?.get;

/** The buffer of a WebAssembly.Memory of any realm; undefined if `value` is none. */
export function bufferOf(value: unknown): WasmMemory['buffer'] | undefined {
  try {
    return getBuffer?.call(value);
  } catch {
    return undefined;
  }
}

/** Unsigned LEB128. */
function leb(value: number): number[] {
  const bytes: number[] = [];
  let rest = value;
  do {
    const low = rest % 128;
    rest = Math.floor(rest / 128);
    bytes.push(rest > 0 ? low + 128 : low);
  } while (rest > 0);
  return bytes;
}

const HEADER = [0, 0x61, 0x73, 0x6d, 1, 0, 0, 0];
const HAS_MAXIMUM = 1;
const SHARED = 2;
const ADDRESS_64 = 4;

/** Whether the memory may be imported as one of these limits: the linker compares the maximum, which nobody else tells. */
function links(memory: WasmMemory, flags: number, maximum: number): boolean {
  const limits = flags & HAS_MAXIMUM ? [flags, 0, ...leb(maximum)] : [flags, 0];
  const entry = [1, 1, 0x6d, 1, 0x6d, 2, ...limits]; // one import: m.m, a memory
  try {
    const { Module, Instance } = wasm as Wasm;
    new Instance(new Module(Uint8Array.from([...HEADER, 2, ...leb(entry.length), ...entry])), { m: { m: memory } });
    return true;
  } catch {
    return false;
  }
}

/** True when the memory has `pages` pages of 64 KiB, or can grow to so many. */
export function canReach(memory: WasmMemory, pages: number): boolean {
  if (memory.buffer.byteLength >= pages * WASM_PAGE) return true;
  const kind = HAS_MAXIMUM | (types.isSharedArrayBuffer(memory.buffer) ? SHARED : 0);
  const below = pages - 1;
  if (links(memory, kind, below) || links(memory, kind | ADDRESS_64, below)) return false;
  return pages <= 65_536 || links(memory, ADDRESS_64, 0) || links(memory, kind | ADDRESS_64, 2 ** 18);
}
