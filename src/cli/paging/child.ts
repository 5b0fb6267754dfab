/**
 * The child of `pagefault paging`, a program of its own: maps its pages, hands their userfaultfd to its parent, reads. The orders come over
 * stdin, and only after the parent has said that the child is started, so that the lines are in order.
 */

import { readFileSync } from 'node:fs';
import { reasonOf } from '../../errors/reason.js';
import { pagedMemory } from '../../guests/paged-memory.js';
import { codeOf } from '../exit.js';
import { Explainer } from './explain.js';
import { type Orders, REPORT_FD, type Report, WRONG_LETTER } from './orders.js';
import { readPages } from './reader.js';
import { startReaders } from './readers.js';
import { Speaker } from './speaker.js';
import { sleep, writeOut } from './write-out.js';

const STDIN = 0;
/** A signal to oneself is there when kill(2) returns, or at once after. */
const SIGNAL_MS = 1000;

async function read(orders: Orders, speaker: Speaker, explainer: Explainer): Promise<string | undefined> {
  const { task, threads, voice, explain } = orders;
  explainer.explain(orders.memory, 'madvise', 'userfaultfd', 'uffdio-api', 'uffdio-register', 'send-fd');
  const memory = pagedMemory(task.pages * task.pageSize, { memory: orders.memory });
  const { address, byteLength } = memory;
  speaker.say({ type: 'mapped', pages: task.pages, address, byteLength });
  if (threads > 0) return await startReaders({ address, byteLength }, threads, { voice, explain, task }).done;
  const bytes = new Uint8Array(memory.buffer);
  return readPages({ ...task, bytes, address, first: 0, step: 1, speaker, explainer, stop: undefined });
}

function report(code: string, message: string): void {
  const told: Report = { code, message };
  writeOut(REPORT_FD, JSON.stringify(told));
}

async function main(): Promise<number> {
  const orders = JSON.parse(readFileSync(STDIN, 'utf8')) as Orders;
  const speaker = new Speaker(orders.voice);
  const explainer = new Explainer(orders.explain ? speaker : undefined);
  speaker.say({ type: 'child-entering' });
  const wrong = await read(orders, speaker, explainer);
  if (wrong !== undefined) {
    report('ERR_PAGEFAULT_MISMATCH', `child ${process.pid}: ${wrong}`);
    return WRONG_LETTER;
  }
  if (orders.signal !== undefined) {
    process.kill(process.pid, orders.signal);
    sleep(SIGNAL_MS);
  }
  explainer.explain('exit');
  speaker.say({ type: 'child-exiting' });
  return orders.exitCode;
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    report(codeOf(error), reasonOf(error));
    process.exit(1);
  },
);
