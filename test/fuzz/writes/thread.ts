/** A further thread of the fuzz of writes: opens the segments of a case by their handles and writes to its lanes while the others do. */

import { closeSync, openSync, readSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { open, type SegmentHandle } from 'pagefault';
import type { Op } from './case.js';
import { describe } from './jobs.js';
import { actTogether, flushTogether, type Writer } from './lanes.js';
import { Ledger, type LedgerParts } from './ledger.js';

export interface ThreadPart {
  handle: SegmentHandle;
  parts: LedgerParts;
  bytes: SharedArrayBuffer;
  /** Of a store that is a file. */
  path: string | undefined;
}

export interface ThreadTask {
  segments: ThreadPart[];
  me: number;
  of: number;
  ops: Op[];
}

export type ToThread = { type: 'run'; task: ThreadTask } | { type: 'close' };

const writers: (Writer & { end(): void })[] = [];

/** How a thread sees what the store has. */
export function storedBy(ledger: Ledger, path: string | undefined): { stored: Writer['stored']; end(): void } {
  const { base } = ledger.parts;
  if (path === undefined) {
    return { stored: (offset, length) => ledger.bytes.slice(base + offset, base + offset + length), end() {} };
  }
  const fd = openSync(path, 'r');
  const stored = (offset: number, length: number): Uint8Array => {
    const bytes = new Uint8Array(length);
    readSync(fd, bytes, 0, length, base + offset);
    return bytes;
  };
  return { stored, end: () => closeSync(fd) };
}

async function run({ segments, me, of, ops }: ThreadTask): Promise<string | undefined> {
  for (const { handle, parts, bytes, path } of segments) {
    const segment = await open(handle);
    const ledger = new Ledger(parts);
    const view = segment.view(Uint8Array, 0, segment.byteLength);
    writers.push({ segment, ledger, view, bytes: new Uint8Array(bytes), me, of, ...storedBy(ledger, path) });
  }
  for (const [i, op] of ops.entries()) {
    const writer = writers[op.s % writers.length];
    if (writer === undefined) continue;
    if (op.do === 'flush') await flushTogether(writer.segment, op);
    else if (op.do === 'load') await writer.segment.load();
    const wrong = actTogether(writer, op);
    if (wrong !== undefined) return `operation ${i} (${JSON.stringify(op)}): ${wrong}`;
  }
  return undefined;
}

async function close(): Promise<undefined> {
  for (const { segment, end } of writers.splice(0)) {
    await segment.close();
    end();
  }
  return undefined;
}

parentPort?.on('message', (message: ToThread) => {
  const doing = message.type === 'run' ? run(message.task) : close();
  doing.catch(describe).then((wrong) => parentPort?.postMessage({ wrong }));
});
