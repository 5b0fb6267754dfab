/** The memory of a segment as JavaScript sees it: a buffer made when it is first asked for, or memory that exists and may grow. Any thread. */

import { outOfRange } from '../errors/argument.js';
import type { Range } from './range.js';
import type { Region } from './region.js';
import type { WasmMemory } from './wasm-memory.js';
import { keepWith } from './watch.js';

/** What `map` and `open` know of a segment's memory. */
export interface MemoryParts {
  /** The memory, or what makes an ArrayBuffer of it when it is first asked for. */
  buffer: ArrayBuffer | SharedArrayBuffer | (() => ArrayBuffer);
  /** Where the segment begins in the buffer. */
  bufferOffset: number;
  /** The memory that the buffer is of, if it is one that grows. */
  wasm: WasmMemory | undefined;
  /** It was there before the segment and is there after it. */
  exists: boolean;
}

export class SegmentMemory {
  readonly bufferOffset: number;
  readonly wasm: WasmMemory | undefined;
  #buffer: ArrayBuffer | SharedArrayBuffer | undefined;
  readonly #makeBuffer: (() => ArrayBuffer) | undefined;
  readonly #exists: boolean;
  readonly #region: Region;
  readonly #segment: EventTarget;

  /** The segment lives as long as its buffer. */
  constructor({ buffer, bufferOffset, wasm, exists }: MemoryParts, region: Region, segment: EventTarget) {
    if (typeof buffer === 'function') this.#makeBuffer = buffer;
    else this.#buffer = buffer;
    this.bufferOffset = bufferOffset;
    this.wasm = wasm;
    this.#exists = exists;
    this.#region = region;
    this.#segment = segment;
    if (this.#buffer !== undefined) keepWith(this.#buffer, segment);
    if (wasm !== undefined) keepWith(wasm, segment);
  }

  get buffer(): ArrayBuffer | SharedArrayBuffer {
    if (this.wasm !== undefined && this.wasm.buffer !== this.#buffer) {
      this.#buffer = this.wasm.buffer; // it has grown
      keepWith(this.#buffer, this.#segment);
    }
    if (this.#buffer === undefined) {
      this.#region.check();
      const made = (this.#makeBuffer as () => ArrayBuffer)();
      keepWith(made, this.#segment);
      this.#buffer = made;
    }
    return this.#buffer;
  }

  /** What is detached when the segment is closed. */
  get plain(): ArrayBuffer | undefined {
    return this.#exists || this.#buffer instanceof SharedArrayBuffer ? undefined : this.#buffer;
  }

  /**
   * Of memory that grows, only what exists can be read, written or loaded: the rest of the range, or, where no end was
   * given, nothing of it.
   */
  existing(who: string, range: Range, ended: boolean): Range {
    const region = this.#region;
    if (this.wasm === undefined) return range;
    const exists = Math.min(region.byteLength, this.buffer.byteLength - this.bufferOffset);
    const reached = exists < region.byteLength ? exists : Number.MAX_SAFE_INTEGER;
    region.call((core, id) => core.regionReaches(id, reached));
    const { offset, byteLength } = range;
    if (offset + byteLength <= exists) return range;
    if (!ended && offset <= exists) return { offset, byteLength: exists - offset };
    throw outOfRange(
      `${who}: the WebAssembly.Memory has ${exists} bytes of the segment by now, and the range ends at ${offset + byteLength}; let it grow() first`,
      'ERR_PAGEFAULT_OUT_OF_BOUNDS',
    );
  }
}
