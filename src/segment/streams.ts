/** A segment as a stream of Node. Chunks are copies, made on threads of the core: no page stays in memory for a slow reader, and no chunk changes or goes with the segment. */

import { Readable, Writable } from 'node:stream';
import { outOfRange } from '../errors/argument.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { checkCount, checkRange, type Range } from './range.js';
import { failureError, type Region } from './region.js';
import type { SegmentMemory } from './segment-memory.js';
import { checkSignal, checkWritable } from './transfer.js';

export interface SegmentReadStreamOptions {
  /**
   * Where the stream begins in the segment, in bytes.
   * @default 0
   */
  offset?: number;
  /** Bytes of the stream; default up to the end of the segment. */
  byteLength?: number;
  /**
   * Bytes of a chunk, and how many are read ahead of the reader.
   * @default 65536
   */
  highWaterMark?: number;
  /** Destroys the stream. */
  signal?: AbortSignal;
}

export interface SegmentWriteStreamOptions {
  /**
   * Where the first byte goes in the segment.
   * @default 0
   */
  offset?: number;
  /** The most that may be written, in bytes; default up to the end of the segment. */
  byteLength?: number;
  /**
   * Bytes that may wait before `write` asks for a pause.
   * @default 65536
   */
  highWaterMark?: number;
  /** Destroys the stream. */
  signal?: AbortSignal;
}

const DEFAULT_HIGH_WATER_MARK = 65_536;
/** A chunk is one allocation. */
const LARGEST_HIGH_WATER_MARK = 2 ** 30;
/** Longer chunks are written in pieces of this many bytes, which is what is copied at once. */
const PIECE = 2 ** 20;

type Done = (error?: Error | null) => void;

interface Checked extends Range {
  highWaterMark: number;
  signal: AbortSignal | undefined;
}

function checkStream(who: string, region: Region, memory: SegmentMemory, options: unknown): Checked {
  checkKeys(who, options, ['offset', 'byteLength', 'highWaterMark', 'signal']);
  const { offset, byteLength, highWaterMark = DEFAULT_HIGH_WATER_MARK, signal } = options as Record<string, unknown>;
  checkCount(`${who}: highWaterMark`, highWaterMark, 1);
  if (highWaterMark > LARGEST_HIGH_WATER_MARK) {
    throw outOfRange(`${who}: highWaterMark must be at most 1 GiB, not ${highWaterMark}`);
  }
  checkSignal(who, signal);
  const range = checkRange(who, region.byteLength, offset, byteLength);
  region.check();
  return { ...memory.existing(who, range, byteLength !== undefined), highWaterMark, signal };
}

/** One copy at a time, which `cancel` ends. */
class Copier {
  readonly #region: Region;
  readonly #into: boolean;
  #job = 0;
  #ended: (() => void) | undefined;

  constructor(region: Region, into: boolean) {
    this.#region = region;
    this.#into = into;
  }

  copy(offset: number, bytes: Uint8Array, done: Done): void {
    const region = this.#region;
    try {
      this.#job = region.call((core, id) =>
        core.regionCopy(id, this.#into, offset, bytes, (failure) => {
          this.#job = 0;
          this.#ended?.();
          done(failure === null ? null : failureError({ ...failure, region: failure.region || region.id }));
        }),
      );
    } catch (error) {
      done(error as Error);
    }
  }

  /** Calls back once nothing is being copied. */
  cancel(ended: () => void): void {
    if (this.#job === 0) {
      ended();
      return;
    }
    this.#ended = ended;
    native().jobCancel(this.#job);
  }
}

/** See `Segment.createReadStream`. `segment` is kept from being collected. */
export function readStream(region: Region, memory: SegmentMemory, segment: object, options: unknown): Readable {
  const { offset, byteLength, highWaterMark, signal } = checkStream('createReadStream()', region, memory, options);
  const copier = new Copier(region, false);
  const kept = { segment };
  let at = offset;
  return new Readable({
    highWaterMark,
    ...(signal === undefined ? {} : { signal }),
    read() {
      const chunk = Buffer.allocUnsafeSlow(Math.min(highWaterMark, offset + byteLength - at));
      if (chunk.length === 0) {
        this.push(null);
        return;
      }
      copier.copy(at, chunk, (error) => {
        if (this.destroyed) return;
        if (error) {
          this.destroy(error);
          return;
        }
        at += chunk.length;
        this.push(chunk);
      });
    },
    destroy(error, callback) {
      copier.cancel(() => callback(error));
      Reflect.deleteProperty(kept, 'segment');
    },
  });
}

/** See `Segment.createWriteStream`. `segment` is kept from being collected. */
export function writeStream(region: Region, memory: SegmentMemory, segment: object, options: unknown): Writable {
  const who = 'createWriteStream()';
  const { offset, byteLength, highWaterMark, signal } = checkStream(who, region, memory, options);
  checkWritable(who, region);
  const copier = new Copier(region, true);
  const kept = { segment };
  let at = offset;
  const write = (chunk: Uint8Array, done: Done): void => {
    const room = offset + byteLength - at;
    if (chunk.length === 0) {
      done();
    } else if (room === 0) {
      done(outOfRange(`${who}: more was written than the ${byteLength} bytes from offset ${offset}`));
    } else {
      const piece = chunk.subarray(0, Math.min(PIECE, room));
      copier.copy(at, piece, (error) => {
        if (error || stream.destroyed) {
          done(error); // a piece may have been copied already when it was to be cancelled: no other follows it
          return;
        }
        at += piece.length;
        write(chunk.subarray(piece.length), done);
      });
    }
  };
  const stream = new Writable({
    highWaterMark,
    ...(signal === undefined ? {} : { signal }),
    write(chunk: Uint8Array, _encoding, done) {
      write(chunk, done);
    },
    destroy(error, callback) {
      copier.cancel(() => callback(error));
      Reflect.deleteProperty(kept, 'segment');
    },
  });
  return stream;
}
