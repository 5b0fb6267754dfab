/**
 * The option `into`: memory that exists. What it may be, which part of it is paged, and a sentence for each way in which it does not do. Runs on the
 * thread that maps.
 */

import { types } from 'node:util';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import type { NativeBackend } from '../native/binding.js';
import { native } from '../native/load.js';
import { holdMemory } from './hold.js';
import { bufferOf, canReach, WASM_PAGE, type WasmMemory } from './wasm-memory.js';

export type { WasmMemory } from './wasm-memory.js';

/** Memory that was given to `map`. */
export interface Into {
  /** The buffer; of a WebAssembly.Memory the one that it had when it was given. */
  readonly buffer: ArrayBuffer | SharedArrayBuffer;
  readonly wasm: WasmMemory | undefined;
}

/** The part of the memory that a segment gets. */
export interface Place {
  /** What exists of it, whole system pages. */
  readonly bytes: Uint8Array;
  /** Where it begins in the buffer. */
  readonly bufferOffset: number;
  /** The segment may be longer than `bytes`: the rest appears when the memory grows. */
  readonly grows: boolean;
}

const WAYS = "a WebAssembly.Memory's memory and that of a growable SharedArrayBuffer begin at a page";

/** Checks what can be checked before the store is open. */
export function checkInto(into: unknown, shared: unknown): Into | undefined {
  if (into === undefined) return undefined;
  const wasmBuffer = bufferOf(into);
  if (wasmBuffer === undefined && !types.isAnyArrayBuffer(into)) {
    const hint = ArrayBuffer.isView(into) ? '; pass its buffer, but only if nothing else lies in it' : '';
    throw wrongType(
      `map(): into must be an ArrayBuffer, a SharedArrayBuffer or a WebAssembly.Memory, not ${shown(into)}${hint}`,
    );
  }
  const buffer = wasmBuffer ?? (into as ArrayBuffer | SharedArrayBuffer);
  const { resizable = false } = buffer as { resizable?: boolean };
  if (wasmBuffer === undefined && resizable) {
    throw new UnsupportedError(
      'map(): into must not be a resizable ArrayBuffer: making it shorter would overwrite pages with zeroes and take them away. A growable SharedArrayBuffer or a WebAssembly.Memory only grows',
    );
  }
  if (types.isArrayBuffer(buffer) && buffer.byteLength === 0 && isDetached(buffer)) {
    throw wrongType('map(): into is detached, so it has no memory', 'ERR_PAGEFAULT_NULL_BASE');
  }
  if (buffer.byteLength === 0) {
    const what = wasmBuffer === undefined ? 'into is empty' : 'into has no pages yet; call its grow() first';
    throw outOfRange(`map(): ${what}`, 'ERR_PAGEFAULT_ZERO_SIZE');
  }
  if (shared === true && types.isArrayBuffer(buffer)) {
    throw wrongType('map(): shared: true needs shared memory, and into is not');
  }
  return { buffer, wasm: wasmBuffer === undefined ? undefined : (into as WasmMemory) };
}

/** `detached` came with Node.js 22; before, a view cannot be made. */
function isDetached(buffer: ArrayBuffer): boolean {
  try {
    new Uint8Array(buffer);
    return false;
  } catch {
    return true;
  }
}

/** The memory that the segment needs does not fit into what there is: says why, and what would. */
function doesNotFit(buffer: ArrayBufferLike, byteLength: number, needed: number, available: number): never {
  const has = `map(): the segment has ${byteLength} bytes, and into has ${buffer.byteLength}`;
  if (buffer.byteLength >= needed) {
    throw outOfRange(
      `${has}, which do not begin at a page of memory: only ${available} of them are whole pages, and ${needed} are needed; make it a page longer, or take other memory: ${WAYS}`,
      'ERR_PAGEFAULT_BASE_NOT_ALIGNED',
    );
  }
  if (buffer.byteLength >= byteLength) {
    throw outOfRange(
      `${has}, but its last page would need ${needed}: only whole pages can be paged; make it ${needed} bytes long`,
      'ERR_PAGEFAULT_SIZE_NOT_ALIGNED',
    );
  }
  throw outOfRange(
    `${has}; byteLength: ${Math.max(available, 0)} would show a part of the store`,
    'ERR_PAGEFAULT_OUT_OF_BOUNDS',
  );
}

/** Other backends close or protect pages by the protection of the mapping, which whoever grows the memory changes for all of it. */
function checkGrowth({ buffer, wasm }: Into, backend: NativeBackend, reserve: number, aligned: boolean): void {
  const refuse = (what: string): never => {
    throw new UnsupportedError(
      `map(): backend '${backend}' cannot page ${what}, because V8 opens all of its pages when it grows`,
    );
  };
  if (wasm !== undefined) {
    const now = buffer.byteLength / WASM_PAGE;
    if (canReach(wasm, now + 1)) {
      refuse(`a WebAssembly.Memory that may grow; make it with a maximum of the ${now} pages that it has`);
    }
    return;
  }
  const { growable = false, maxByteLength = 0 } = buffer as { growable?: boolean; maxByteLength?: number };
  if (growable && maxByteLength > buffer.byteLength) {
    refuse('a SharedArrayBuffer that may grow; make it with a maxByteLength of its byteLength');
  }
  if (!growable && aligned && reserve >= WASM_PAGE) {
    refuse(
      'what looks like the buffer of a WebAssembly.Memory; pass the memory itself, so that it can be seen whether it grows',
    );
  }
}

/** The largest page that memory can have: a WebAssembly.Memory grows by 64 KiB. */
export function limitPageSize(into: Into | undefined, asked: number | undefined, chosen: number): number {
  if (into?.wasm === undefined || chosen <= WASM_PAGE) return chosen;
  if (asked === undefined) return WASM_PAGE;
  throw outOfRange(
    `map(): pageSize must be at most ${WASM_PAGE} in a WebAssembly.Memory, which grows by so many bytes, not ${asked}`,
    'ERR_PAGEFAULT_PAGE_SIZE_UNAVAILABLE',
  );
}

/** Finds the part of the memory for a segment of so many bytes. */
export function place(into: Into, byteLength: number, pageSize: number, backend: NativeBackend): Place {
  const { buffer, wasm } = into;
  const all = new Uint8Array(buffer);
  const look = new Float64Array(4);
  const address = native().memoryLook(all, look);
  const [mapped = 0, , reserve = 0] = look;
  const system = native().systemPageSize();
  const bufferOffset = (system - Number(address % BigInt(system))) % system;
  const exists = Math.max(0, Math.floor((all.byteLength - bufferOffset) / system) * system);
  const needed = Math.ceil(byteLength / pageSize) * pageSize;
  if (needed > exists && wasm === undefined) doesNotFit(buffer, byteLength, needed, exists);
  if (needed > exists && wasm !== undefined && !canReach(wasm, Math.ceil(needed / WASM_PAGE))) {
    throw outOfRange(
      `map(): the segment has ${byteLength} bytes, more than the maximum of this WebAssembly.Memory, which has ${exists} now; give it a larger maximum, or show a part of the store with byteLength`,
      'ERR_PAGEFAULT_OUT_OF_BOUNDS',
    );
  }
  if (mapped < Math.min(exists, needed)) {
    throw wrongType('map(): into is not memory any more: its pages were unmapped', 'ERR_PAGEFAULT_NULL_BASE');
  }
  if (backend !== 'signal') checkGrowth(into, backend, reserve, bufferOffset === 0);
  return {
    bytes: all.subarray(bufferOffset, bufferOffset + Math.min(exists, needed)),
    bufferOffset,
    grows: needed > exists,
  };
}

/**
 * A transfer to another length reallocates the memory on Node.js 22: it would be unmapped, or moved with its missing pages read as zeroes, and no hold prevents
 * that. The methods are taken from this one buffer; whoever borrows them from the prototype has been told (docs/limits.md). Not by
 * markAsUntransferable(): from Node.js 24 on that would end the process when the owner of external memory detaches its buffer.
 */
function forbidTransfer(buffer: ArrayBuffer): void {
  const value = (): never => {
    throw new UnsupportedError('the memory of this ArrayBuffer is paged, so it cannot be transferred');
  };
  for (const name of ['transfer', 'transferToFixedLength']) {
    Reflect.defineProperty(buffer, name, { value, configurable: true, writable: true });
  }
}

/** Sees to it that the memory outlives everything that may touch it; the core's number of the hold on it. */
export function keep({ buffer, wasm }: Into): number {
  if (wasm === undefined && types.isArrayBuffer(buffer)) forbidTransfer(buffer);
  return holdMemory(wasm ?? buffer, buffer);
}
