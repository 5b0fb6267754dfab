/**
 * Writing by several threads at once: the memory is cut into lanes of 16 bytes, and each thread writes to its own only. So each knows at any time what its
 * lanes hold, and that a page which does not count as modified has them in the store. Any thread.
 */

import type { Segment } from 'pagefault';
import type { Op } from './case.js';
import type { Ledger } from './ledger.js';

const LANE = 16;
const MOST_LANES = 200;

export interface Writer {
  readonly segment: Segment;
  readonly view: Uint8Array;
  readonly ledger: Ledger;
  /** What the memory holds, for all threads: each changes its own lanes. */
  readonly bytes: Uint8Array;
  /** Whose lanes, and of how many threads. */
  readonly me: number;
  readonly of: number;
  /** Bytes that the store has of a range of the segment. */
  stored(offset: number, length: number): Uint8Array;
}

interface Lane {
  offset: number;
  length: number;
}

/** My lanes in a range, a part of them where there are many. */
function* lanesOf(writer: Writer, { at, n, x }: Op): IterableIterator<Lane> {
  const { ledger, me, of } = writer;
  const start = at % ledger.inStore;
  const end = Math.min(start + Math.max(n, LANE * of), ledger.inStore);
  const first = Math.floor(start / LANE);
  const count = Math.ceil(end / LANE) - first;
  const step = Math.max(1, Math.floor(count / MOST_LANES)) * (x % 2 === 0 ? 1 : 3);
  for (let lane = first; lane < first + count; lane += step) {
    const mine = lane - (lane % of) + me;
    const offset = mine * LANE;
    if (offset < ledger.inStore) yield { offset, length: Math.min(LANE, ledger.inStore - offset) };
  }
}

function write(writer: Writer, op: Op): string | undefined {
  let value = op.x;
  for (const { offset, length } of lanesOf(writer, op)) {
    value = (value * 5 + 1) & 0xff;
    const bytes = new Uint8Array(length).fill(value);
    if (op.do === 'write lanes') writer.segment.write(offset, bytes);
    else if (op.x % 3 === 0) writer.view.set(bytes, offset);
    else for (let i = 0; i < length; i++) writer.view[offset + i] = value;
    writer.bytes.set(bytes, offset);
  }
  return undefined;
}

function check(writer: Writer, op: Op): string | undefined {
  for (const { offset, length } of lanesOf(writer, op)) {
    const found = op.x % 3 === 0 ? writer.segment.read(offset, length) : writer.view.subarray(offset, offset + length);
    for (let i = 0; i < length; i++) {
      const expected = writer.bytes[offset + i];
      if (found[i] !== expected) return `byte ${offset + i} of thread ${writer.me} is ${found[i]}, not ${expected}`;
    }
  }
  return undefined;
}

/** What is not dirty is in the store. */
function kept(writer: Writer, op: Op): string | undefined {
  const { pageSize } = writer.ledger.parts;
  const page = Math.floor((op.at % writer.ledger.inStore) / pageSize);
  const from = page * pageSize;
  const length = Math.min(pageSize, writer.ledger.inStore - from);
  write(writer, { ...op, at: from, n: Math.min(length, 64) });
  if (writer.segment.dirty(from, length).length > 0) return undefined;
  const stored = writer.stored(from, length);
  for (const lane of lanesOf(writer, { ...op, at: from, n: length, x: 0 })) {
    for (let at = Math.max(from, lane.offset); at < Math.min(lane.offset + lane.length, from + length); at++) {
      if (stored[at - from] === writer.bytes[at]) continue;
      return `page ${page} is not dirty, and the store has ${stored[at - from]} and not ${writer.bytes[at]} at ${at}, of thread ${writer.me}`;
    }
  }
  return undefined;
}

/** Does what needs no promise. */
export function actTogether(writer: Writer, op: Op): string | undefined {
  const { segment } = writer;
  switch (op.do) {
    case 'lanes':
    case 'write lanes':
      return write(writer, op);
    case 'check lanes':
      return check(writer, op);
    case 'kept lanes':
      return kept(writer, op);
    case 'release':
      segment.release(op.at % segment.byteLength);
      return undefined;
    case 'invalidate':
      segment.invalidate(op.at % segment.byteLength);
      return undefined;
    case 'reset':
      segment.resetWriteDetection(op.at % segment.byteLength);
      return undefined;
    default:
      return undefined;
  }
}

const refusals = new Set(['ERR_PAGEFAULT_STORE_WRITE', 'ERR_PAGEFAULT_STORE_SYNC']);

/** A flush, which the store may refuse and which may be aborted. */
export async function flushTogether(segment: Segment, op: Op): Promise<undefined> {
  const abort = op.do === 'begin flush' && op.x % 3 === 0 ? new AbortController() : undefined;
  if (abort !== undefined) setTimeout(() => abort.abort(), op.x % 7);
  const offset = op.at % segment.byteLength;
  try {
    await segment.flush(offset, undefined, abort === undefined ? {} : { signal: abort.signal });
  } catch (error) {
    const { code } = error as { code?: string };
    if (!refusals.has(code ?? '') && error !== abort?.signal.reason) throw error;
  }
}
