/**
 * Shared memory on runtimes that cannot make a SharedArrayBuffer over the core's memory (Node.js 20, early 22 and 24):
 * that of a shared WebAssembly.Memory, which the core pages in place. Any thread.
 */

import { reasonOf } from '../errors/reason.js';
import { SystemError } from '../errors/system-error.js';
import { holdMemory } from './hold.js';
import { WASM_PAGE } from './wasm-memory.js';

interface WasmMemory {
  readonly buffer: SharedArrayBuffer;
}

/** The part of the global that is used here; the types of Node.js 20 do not have it. */
declare const WebAssembly: {
  Memory: new (descriptor: { initial: number; maximum: number; shared: true }) => WasmMemory;
};

/** A buffer of at least `byteLength` bytes, whole pages of both kinds, and the core's hold on it. */
export function wasmBuffer(byteLength: number, pageSize: number): { buffer: SharedArrayBuffer; hold: number } {
  const grain = Math.max(WASM_PAGE, pageSize);
  const pages = (Math.ceil(byteLength / grain) * grain) / WASM_PAGE;
  let memory: WasmMemory;
  try {
    memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  } catch (error) {
    const reason = reasonOf(error);
    const sentence = `there is no address space for a shared buffer of ${byteLength} bytes: ${reason}`;
    throw new SystemError('ERR_PAGEFAULT_NO_MEMORY', sentence, { cause: error });
  }
  const { buffer } = memory;
  return { buffer, hold: holdMemory(buffer, buffer) };
}
