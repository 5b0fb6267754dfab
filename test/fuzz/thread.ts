/** A further thread of the fuzz: opens the segments of a case by their handles and touches them while the others do. */

import { parentPort } from 'node:worker_threads';
import { open, type Segment, type SegmentHandle } from 'pagefault';
import { access, describe, type Subject } from './access.js';
import type { Op } from './case.js';
import { Truth, type TruthParts } from './truth.js';

export interface ThreadTask {
  handles: SegmentHandle[];
  truths: TruthParts[];
  /** Pages that may fail, of each segment: every how many; 0: none. */
  risky: number[];
  ops: Op[];
}

export type ToThread = { type: 'run'; task: ThreadTask } | { type: 'close' };
export type FromThread = { type: 'done'; wrong: string | undefined } | { type: 'closed'; wrong: string | undefined };

let subjects: Subject[] = [];

async function openSubjects({ handles, truths, risky }: ThreadTask): Promise<void> {
  for (const [i, handle] of handles.entries()) {
    const segment: Segment = await open(handle);
    const parts = truths[i];
    if (parts === undefined) throw new Error('a handle without a truth');
    const truth = new Truth(parts);
    const every = risky[i] ?? 0;
    subjects.push({
      segment,
      view: segment.view(Uint8Array),
      truth,
      fails(offset, length) {
        for (let page = truth.pageOf(offset); page * truth.pageSize < offset + length; page++) {
          if (every > 0 && page % every === 0) return 'maybe';
        }
        return 'never';
      },
    });
  }
}

function act(op: Op): string | undefined {
  const subject = subjects[op.s % subjects.length];
  if (subject === undefined) return undefined;
  const { segment } = subject;
  switch (op.do) {
    case 'release':
      segment.release(op.at % segment.byteLength);
      return undefined;
    case 'invalidate':
      segment.invalidate(op.at % segment.byteLength);
      return undefined;
    default:
      return access(subject, op);
  }
}

async function run(task: ThreadTask): Promise<string | undefined> {
  await openSubjects(task);
  for (const [i, op] of task.ops.entries()) {
    const wrong = act(op);
    if (wrong !== undefined) return `operation ${i} (${JSON.stringify(op)}): ${wrong}`;
  }
  return undefined;
}

async function close(): Promise<undefined> {
  const open = subjects;
  subjects = [];
  for (const { segment } of open) await segment.close();
  return undefined;
}

parentPort?.on('message', (message: ToThread) => {
  const reply = (type: FromThread['type']) => (wrong: string | undefined) =>
    parentPort?.postMessage({ type, wrong } satisfies FromThread);
  if (message.type === 'run') run(message.task).catch(describe).then(reply('done'));
  else close().catch(describe).then(reply('closed'));
});
