/** What the parent tells a child it starts, over the child's stdin, and what a child reports when it fails. Plain data. */
import type { MemoryName } from './plan.js';
import type { Task } from './reader.js';
import type { Voice } from './speaker.js';

export interface Orders {
  readonly voice: Voice;
  readonly explain: boolean;
  readonly task: Task;
  /** 0: the main thread reads. */
  readonly threads: number;
  readonly memory: MemoryName;
  readonly exitCode: number;
  readonly signal: NodeJS.Signals | undefined;
}

/** Descriptor of the child on which it reports a failure. */
export const REPORT_FD = 3;

/** Why a child could not do it: one sentence, as the parent will print it. */
export interface Report {
  readonly code: string;
  readonly message: string;
}

/** Exit code of a child that read a wrong letter. */
export const WRONG_LETTER = 3;

/** What a thread that reads is given. */
export interface ThreadOrders {
  readonly voice: Voice;
  readonly explain: boolean;
  readonly task: Task;
  readonly thread: number;
  readonly threads: number;
  readonly address: bigint;
  readonly byteLength: number;
  /** One Int32: not 0 when all shall stop. */
  readonly stop: SharedArrayBuffer;
}
