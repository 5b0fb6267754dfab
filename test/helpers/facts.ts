/**
 * Tests of what the kernel does, each named by its number in docs/kernel.md. The thread of the test serves; Workers touch. Whatever happens,
 * the descriptors are closed at the end, so that no thread is left waiting.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import {
  Mapping,
  Memfd,
  pageSize,
  type Range,
  scanPages,
  Uffd,
  type UffdFeature,
  type UffdOptions,
} from 'pagefault/kernel';
import type { Task } from '../fixtures/fault-scope.js';
import { openFds, until } from './descriptors.js';
import { type Ran, runNode } from './run.js';
import { nextEvent } from './toucher.js';

export const PAGE: number = pageSize();

export const filled = (value: number, pages = 1): Uint8Array => new Uint8Array(pages * PAGE).fill(value);

/** Pages of a range. */
export function pagesOf(range: Range, first: number, count = 1): Range {
  return { address: range.address + BigInt(first * PAGE), byteLength: count * PAGE };
}

/** The address of a page. */
export const at = (range: Range, page: number): bigint => range.address + BigInt(page * PAGE);

/** Numbers of the pages in spans. */
export function pageNumbers(range: Range, spans: readonly Range[]): number[] {
  return spans.flatMap((span) => {
    const first = Number(span.address - range.address) / PAGE;
    return Array.from({ length: span.byteLength / PAGE }, (_, i) => first + i);
  });
}

/** The errno a call throws; 0: it throws nothing. */
export function errnoOf(call: () => unknown): number {
  try {
    call();
    return 0;
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException;
    if (errno === undefined) throw error;
    return Math.abs(errno);
  }
}

/** A thread that may be made to wait for ever: the bench ends it. */
export class FaultThread {
  readonly #worker: Worker;

  constructor(worker: Worker) {
    this.#worker = worker;
  }

  async run<A, R>(task: Task<A, R>, argument: A): Promise<R> {
    this.#worker.postMessage({ text: String(task), argument });
    const [answer] = (await once(this.#worker, 'message')) as [{ value: R; error?: object }];
    if (answer.error !== undefined) throw Object.assign(new Error(), answer.error);
    return answer.value;
  }

  /** The first byte of a page. */
  read(range: Range, page = 0): Promise<number> {
    return this.run(({ bytesAt }, address) => bytesAt(address, 1)[0] as number, at(range, page));
  }

  /** Writes the first byte of a page. */
  write(range: Range, page: number, value: number): Promise<number> {
    return this.run(
      ({ bytesAt }, [address, byte]) => {
        const bytes = bytesAt(address, 1);
        bytes[0] = byte;
        return bytes[0] as number;
      },
      [at(range, page), value] as [bigint, number],
    );
  }

  /** madvise(MADV_DONTNEED). */
  drop({ address, byteLength }: Range): Promise<number> {
    return this.run(({ core }, [start, length]) => core.memoryAdvise(start, length, 4), [address, byteLength] as [
      bigint,
      number,
    ]);
  }

  async end(): Promise<void> {
    await this.#worker.terminate();
  }
}

/** What a test makes, and undoes. */
export class Bench {
  readonly #uffds: Uffd[] = [];
  readonly #threads: FaultThread[] = [];
  readonly #rest: (() => void)[] = [];

  uffd(options?: UffdOptions): Uffd {
    return this.keep(Uffd.open(options));
  }

  keep(uffd: Uffd): Uffd {
    this.#uffds.push(uffd);
    return uffd;
  }

  /** Private memory, in small pages. */
  memory(pages: number): Mapping {
    const memory = this.map(Mapping.anonymous(pages * PAGE));
    memory.advise('nohugepage');
    return memory;
  }

  map(mapping: Mapping): Mapping {
    this.undo(() => mapping.unmap());
    return mapping;
  }

  memfd(pages: number): Memfd {
    const memfd = Memfd.create('facts', { byteLength: pages * PAGE });
    this.undo(() => memfd.close());
    return memfd;
  }

  undo(step: () => void): void {
    this.#rest.unshift(step);
  }

  async thread(): Promise<FaultThread> {
    const worker = new Worker(new URL('../fixtures/fault-thread.js', import.meta.url));
    await once(worker, 'message');
    const thread = new FaultThread(worker);
    this.#threads.push(thread);
    return thread;
  }

  /** Closing comes first: whoever waits goes on. */
  async end(): Promise<void> {
    for (const uffd of this.#uffds) uffd.close();
    for (const thread of this.#threads) await thread.end();
    for (const step of this.#rest) step();
  }
}

export interface Needs {
  features?: readonly UffdFeature[];
  /** Faults in system calls are reported: a privilege. */
  kernelFaults?: boolean;
  /** PAGEMAP_SCAN. */
  scan?: boolean;
  /** Another reason not to run. */
  skip?: string | false;
}

/** Why a fact cannot be shown here, or false. */
function reason({ features = [], kernelFaults, scan, skip = false }: Needs): string | false {
  try {
    Uffd.open({ features, ...(kernelFaults === true ? { userModeOnly: false } : {}) }).close();
    if (scan === true) scanPages({ address: 0n, byteLength: PAGE });
    return skip;
  } catch (error) {
    return (error as Error).message;
  }
}

/** A test of the kernel. */
export function fact(name: string, needs: Needs, body: (bench: Bench) => void | Promise<void>): void {
  test(name, { timeout: 60_000, skip: reason(needs) }, async () => {
    const before = openFds();
    const bench = new Bench();
    try {
      await body(bench);
    } finally {
      await bench.end();
    }
    await until(() => openFds() <= before);
  });
}

/** Asserts that the next event is a fault of this kind at this page. */
export async function faultAt(
  uffd: Uffd,
  range: Range,
  page: number,
  kind = 'missing',
  access?: string,
): Promise<void> {
  const event = await nextEvent(uffd);
  assert.equal(event.type, 'pagefault');
  if (event.type !== 'pagefault') return;
  assert.deepEqual([event.kind, event.address], [kind, at(range, page)]);
  if (access !== undefined) assert.equal(event.access, access);
}

/** Waits until that many faults are there and unread. */
export function pending(uffd: Uffd, count: number): Promise<void> {
  const path = `/proc/self/fdinfo/${uffd.fd}`;
  return until(() => Number(/^pending:\s*(\d+)$/m.exec(readFileSync(path, 'latin1'))?.[1]) === count);
}

/** True when the promise is not settled after a while. */
export async function stillWaits(promise: Promise<unknown>, milliseconds = 80): Promise<boolean> {
  const mark = {};
  return (await Promise.race([promise.catch(() => undefined), sleep(milliseconds, mark)])) === mark;
}

/** Runs a task in a process of its own, which is killed after `timeoutMs`. */
export function inChild<A>(task: Task<A, unknown>, argument: A, timeoutMs = 20_000): Promise<Ran> {
  const script = fileURLToPath(new URL('../fixtures/fault-child.js', import.meta.url));
  return runNode(script, [String(task), JSON.stringify(argument)], { timeoutMs });
}
