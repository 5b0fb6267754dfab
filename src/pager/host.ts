/**
 * The pager's Worker as seen by the thread that maps: started with the first store, one a thread, ended a moment after
 * the last store is closed. It never keeps the process alive, except while an answer to `open` or `close` is awaited.
 */

import { Worker } from 'node:worker_threads';
import { deserializeCause } from '../errors/cause.js';
import { reasonOf } from '../errors/reason.js';
import { StoreError } from '../errors/store-error.js';
import { native } from '../native/load.js';
import type { CustomRef } from '../stores/ref.js';
import type { FromWorker, Opened, Part, ToWorker } from './protocol.js';

/** How long the Worker stays without a store: map and close in a loop should not start one each time. */
const IDLE_MS = 500;
/** How long the store's `close` may take. */
const CLOSE_MS = 5000;

/** A store that is open in the Worker. */
export interface CustomStore extends Opened {
  readonly pager: number;
  /** Idempotent. Rejects with a StoreError if the store's own `close` failed. */
  close(): Promise<void>;
}

interface Request {
  settle(answer: FromWorker): void;
  reject(error: Error): void;
}

/** Switches that say how modules are found and compiled; a store module may need them. */
const MODULE_SWITCHES = /^(--import|--require|-r|--loader|--experimental-loader|--conditions|-C)(=|$)/;

/**
 * A Worker inherits the switches of its parent, and Node.js refuses to start it from a file if `--input-type` is one of
 * them. Then it gets those that store modules may need, and no others: many are refused where they are given explicitly.
 */
function workerArguments(): { execArgv?: string[] } {
  const given = process.execArgv;
  if (!given.some((argument) => argument.startsWith('--input-type'))) return {};
  const kept = given.flatMap((argument, i) => {
    if (!MODULE_SWITCHES.test(argument)) return [];
    return argument.includes('=') ? [argument] : [argument, given[i + 1] ?? ''];
  });
  return { execArgv: kept };
}

function gone(how: string): StoreError {
  return new StoreError('ERR_PAGEFAULT_STORE_GONE', `the store's Worker ${how}`);
}

class Host {
  readonly #worker: Worker;
  readonly #requests = new Map<number, Request>();
  readonly #ready: Promise<number>;
  readonly #settleReady: { resolve(pager: number): void; reject(error: Error): void };
  #pager: number | undefined;
  #nextRequest = 1;
  #open = 0;
  #gone: string | undefined;
  #idle: NodeJS.Timeout | undefined;

  constructor() {
    let settle: { resolve(pager: number): void; reject(error: Error): void } | undefined;
    this.#ready = new Promise((resolve, reject) => {
      settle = { resolve, reject };
    });
    this.#ready.catch(() => {}); // told to each request
    if (settle === undefined) throw new Error('unreachable');
    this.#settleReady = settle;
    this.#worker = new Worker(new URL('./worker.js', import.meta.url), {
      name: 'pagefault pager',
      ...workerArguments(),
    });
    this.#worker.unref();
    this.#worker.on('message', (message: FromWorker) => this.#hear(message));
    this.#worker.on('error', (error: unknown) => {
      const unborn = (error as { code?: unknown } | null | undefined)?.code === 'ERR_WORKER_INIT_FAILED';
      this.#lost(unborn ? cannotStart(error) : gone(`ended with an uncaught exception: ${reasonOf(error)}`));
    });
    this.#worker.on('exit', (code) => this.#lost(gone(`exited with code ${code}`)));
  }

  get gone(): boolean {
    return this.#gone !== undefined;
  }

  async open(ref: CustomRef, part: Part, timeoutMs: number, signal: AbortSignal | undefined): Promise<CustomStore> {
    clearTimeout(this.#idle);
    this.#open += 1;
    let answer: FromWorker;
    let pager: number;
    try {
      const request = { type: 'open', moduleUrl: ref.moduleUrl, options: ref.options, part } as const;
      const late = `opening the store took longer than ${timeoutMs} ms`;
      [pager, answer] = await Promise.all([this.#ready, this.#ask(request, timeoutMs, signal, late)]);
    } catch (error) {
      this.#closed();
      throw error;
    }
    if (answer.type !== 'opened') throw new Error('unreachable');
    const { store, byteLength, pageSize, longestRead, onWrite } = answer;
    let closing: Promise<void> | undefined;
    const close = (): Promise<void> => {
      closing ??= this.#close(store);
      return closing;
    };
    return { pager, store, byteLength, pageSize, longestRead, onWrite, close };
  }

  async #close(store: number): Promise<void> {
    try {
      if (this.#gone !== undefined) return;
      const late = `closing the store took longer than ${CLOSE_MS} ms`;
      await this.#ask({ type: 'close', store }, CLOSE_MS, undefined, late);
    } catch (error) {
      // A store whose Worker is gone is as closed as it can be.
      if (!(error instanceof StoreError) || error.code !== 'ERR_PAGEFAULT_STORE_GONE') throw error;
    } finally {
      this.#closed();
    }
  }

  #closed(): void {
    this.#open -= 1;
    if (this.#open > 0 || this.#gone !== undefined) return;
    clearTimeout(this.#idle);
    this.#idle = setTimeout(() => this.#end(), host === this ? IDLE_MS : 0).unref();
  }

  #end(): void {
    if (this.#open > 0) return;
    this.#gone = 'the store is closed';
    if (host === this) host = undefined;
    void this.#worker.terminate();
  }

  /** One request, its answer, its deadline. */
  #ask(
    message: { type: 'open'; moduleUrl: string; options: unknown; part: Part } | { type: 'close'; store: number },
    timeoutMs: number,
    signal: AbortSignal | undefined,
    late: string,
  ): Promise<FromWorker> {
    if (this.#gone !== undefined) return Promise.reject(new StoreError('ERR_PAGEFAULT_STORE_GONE', this.#gone));
    if (signal?.aborted) return Promise.reject(signal.reason); // 'abort' comes once, and may have come while something else was awaited
    const request = this.#nextRequest++;
    return new Promise((resolve, reject) => {
      const end = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', abort);
        this.#requests.delete(request);
        if (this.#requests.size === 0) this.#worker.unref();
      };
      const fail = (error: unknown): void => {
        end();
        reject(error);
      };
      const settle = (answer: FromWorker): void => {
        end();
        if (answer.type !== 'refused') resolve(answer);
        else reject(new StoreError(answer.code, answer.message, { cause: deserializeCause(answer.cause) }));
      };
      const abort = (): void => fail(signal?.reason);
      const timer = setTimeout(() => {
        if (host === this) host = undefined; // it may never answer again: the next store gets another Worker
        fail(new StoreError('ERR_PAGEFAULT_TIMEOUT', late));
      }, timeoutMs);
      signal?.addEventListener('abort', abort, { once: true });
      this.#requests.set(request, { settle, reject: fail });
      this.#worker.ref();
      try {
        this.#worker.postMessage({ ...message, request } satisfies ToWorker);
      } catch (error) {
        fail(error); // options that cannot be cloned: custom() made no copy of them
      }
    });
  }

  #hear(message: FromWorker): void {
    if (message.type === 'ready') {
      this.#pager = message.pager;
      this.#settleReady.resolve(message.pager);
      return;
    }
    const request = this.#requests.get(message.request);
    if (request !== undefined) {
      request.settle(message);
    } else if (message.type === 'opened') {
      // The caller did not wait for it; nobody is told how closing it goes.
      this.#worker.postMessage({ type: 'close', request: 0, store: message.store } satisfies ToWorker);
    }
  }

  #lost(error: StoreError): void {
    if (host === this) host = undefined;
    if (this.#gone !== undefined) return;
    this.#gone = error.message;
    if (this.#pager !== undefined) native().pagerKill(this.#pager, error.message);
    this.#settleReady.reject(error);
    for (const request of [...this.#requests.values()]) request.reject(error);
  }
}

let host: Host | undefined;

function cannotStart(error: unknown): StoreError {
  const sentence = `no Worker can be started for the store: ${reasonOf(error)}`; // no thread is left, say
  return new StoreError('ERR_PAGEFAULT_SPAWN', sentence, { cause: error });
}

function startHost(): Host {
  try {
    return new Host();
  } catch (error) {
    throw cannotStart(error);
  }
}

/** Opens a store in this thread's pager. Rejects with a StoreError, or with the signal's reason. */
export async function openCustom(
  ref: CustomRef,
  part: Part,
  timeoutMs: number,
  signal: AbortSignal | undefined,
): Promise<CustomStore> {
  const used = host;
  if (used !== undefined && !used.gone) {
    try {
      return await used.open(ref, part, timeoutMs, signal);
    } catch (error) {
      // Another store has ended that Worker; its end was only seen now.
      if (!(error instanceof StoreError) || error.code !== 'ERR_PAGEFAULT_STORE_GONE') throw error;
    }
  }
  if (host === undefined || host.gone) host = startHost();
  return host.open(ref, part, timeoutMs, signal);
}
