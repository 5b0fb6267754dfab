/**
 * Reads a segment through faults and compares what comes out with the file read in the ordinary way. Reads happen inside
 * `attempt`, so that a page that cannot be had is an error and not the end of the process. Main thread.
 */
import { createHash } from 'node:crypto';
import { createReadStream, readSync } from 'node:fs';
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Segment } from '../index.js';
import { interruptedError } from './exit.js';
import { type Pattern, touchedPages } from './patterns.js';
import type { Progress } from './progress.js';

const CHUNK = 2 ** 20;
/** A chunk that takes longer is halved, so that SIGINT and progress need not wait for a slow store. */
const PATIENCE_MS = 50;
/** Touches between two looks at the event loop, where SIGINT arrives. */
const TOUCHES_A_TURN = 256;

export interface Reading {
  pattern: Pattern;
  /** Bytes read through the segment. */
  bytesRead: number;
  /** Pages touched, with repetition. */
  touches: number;
  /** Milliseconds, without the comparison where it can be told apart (seq). */
  elapsedMs: number;
  matches: boolean;
  /** Of all bytes, for seq. */
  sha256?: { segment: string; file: string };
  /** Offset of the first page that differs, for random and zipf. */
  firstDifference?: number;
}

/** What both ways of reading need. */
export interface Task {
  segment: Segment;
  path: string;
  progress: Progress;
  signal: AbortSignal;
}

/** Everything in order: the SHA-256 through the segment must be the file's. */
export async function readAll({ segment, path, progress, signal }: Task): Promise<Reading> {
  const bytes = segment.view(Uint8Array);
  const hash = createHash('sha256');
  const start = performance.now();
  let chunk = segment.pageSize;
  for (let offset = 0; offset < bytes.length; ) {
    const begun = performance.now();
    segment.attempt(() => hash.update(bytes.subarray(offset, offset + chunk)));
    progress.update('read through faults', offset, bytes.length);
    await turn(signal);
    offset += chunk;
    chunk = nextChunk(chunk, performance.now() - begun, segment.pageSize);
  }
  const elapsedMs = performance.now() - start;

  const expected = createHash('sha256');
  let compared = 0;
  for await (const chunk of createReadStream(path, { highWaterMark: CHUNK })) {
    expected.update(chunk as Buffer);
    compared += (chunk as Buffer).length;
    progress.update('compared', compared, bytes.length);
    if (signal.aborted) throw interruptedError();
  }
  const sha256 = { segment: hash.digest('hex'), file: expected.digest('hex') };
  const touches = Math.ceil(bytes.length / segment.pageSize);
  const matches = sha256.segment === sha256.file;
  return { pattern: 'seq', bytesRead: bytes.length, touches, elapsedMs, matches, sha256 };
}

function nextChunk(chunk: number, elapsedMs: number, pageSize: number): number {
  return elapsedMs > PATIENCE_MS ? Math.max(pageSize, chunk / 2) : Math.min(CHUNK, chunk * 2);
}

/** Single pages in the order of a pattern, each compared with what `fs.readSync` gets. */
export async function readPages(
  task: Task & { fd: number; pattern: 'random' | 'zipf'; touches: number },
): Promise<Reading> {
  const { segment, fd, pattern, touches, progress, signal } = task;
  const { pageSize, byteLength } = segment;
  const bytes = segment.view(Uint8Array);
  const expected = Buffer.alloc(pageSize);
  const reading: Reading = { pattern, bytesRead: 0, touches: 0, elapsedMs: 0, matches: true };
  const start = performance.now();
  for (const page of touchedPages(pattern, Math.ceil(byteLength / pageSize), touches)) {
    const offset = page * pageSize;
    const length = Math.min(pageSize, byteLength - offset);
    const got = readSync(fd, expected, 0, length, offset);
    const difference = segment.attempt(() =>
      Buffer.compare(expected.subarray(0, got), bytes.subarray(offset, offset + length)),
    );
    reading.touches++;
    reading.bytesRead += length;
    if (difference !== 0) {
      reading.matches = false;
      reading.firstDifference = offset;
      break;
    }
    progress.update('touched and compared', reading.bytesRead, touches * pageSize);
    if (reading.touches % TOUCHES_A_TURN === 0) await turn(signal);
  }
  reading.elapsedMs = performance.now() - start;
  return reading;
}

async function turn(signal: AbortSignal): Promise<void> {
  await nextTurn();
  if (signal.aborted) throw interruptedError();
}
