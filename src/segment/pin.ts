/** A range that stays in memory. Belongs to the thread that pinned it. */

import { native } from '../native/load.js';
import type { Range } from './range.js';
import type { Region } from './region.js';

/** Pages that are loaded and are not evicted, so that their bytes may be handed to `fs`, `net` and other system calls. */
export class Pin {
  /** The range, as a view of the segment's buffer. */
  readonly bytes: Uint8Array;
  readonly #region: Region;
  readonly #range: Range;
  #released = false;

  /** Made by `segment.pin`. */
  constructor(region: Region, range: Range, buffer: ArrayBufferLike, bufferOffset: number) {
    this.#region = region;
    this.#range = range;
    this.bytes = new Uint8Array(buffer, bufferOffset + range.offset, range.byteLength);
  }

  /** The pages may be evicted again. Idempotent; harmless once the segment is closed. */
  release(): void {
    if (this.#released) return;
    this.#released = true;
    if (this.#region.closed || this.#range.byteLength === 0) return;
    native().regionUnpin(this.#region.id, this.#range.offset, this.#range.byteLength);
  }

  [Symbol.dispose](): void {
    this.release();
  }
}
