/**
 * Whole pages out of a source: opens it when the first is wanted, tries again what may pass, gives up at the deadline, and tells every
 * failure as a PageSourceError. On the event loop of the thread that made it.
 */

import { setTimeout as pause } from 'node:timers/promises';
import { isPermanent, pauseBeforeRetry } from '../pager/retry.js';
import type { PageSource } from './page-source.js';
import { latePage, type SourceName, shortPage, sourceFailure, type WantedPage } from './page-source-failure.js';

/** Rejects with the signal's reason as soon as it is aborted, whatever the work does then. */
function untilAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const abort = (): void => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
    if (signal.aborted) abort();
  });
}

export class PageReader {
  readonly #name: SourceName;
  readonly #openSource: () => Promise<PageSource>;
  readonly #timeoutMs: number;
  readonly #retried: () => void;
  /** End what is under way. */
  readonly #cancels = new Set<(reason: Error) => void>();
  #source: Promise<PageSource> | undefined;
  #ended: Error | undefined;

  /** `open` is called when the first page is wanted, and again where it failed; `retried` for each try after a failed one. */
  constructor(name: SourceName, open: () => Promise<PageSource>, timeoutMs: number, retried: () => void) {
    this.#name = name;
    this.#openSource = open;
    this.#timeoutMs = timeoutMs;
    this.#retried = retried;
  }

  /** Fills `into` with the page at an offset. Rejects with a PageSourceError, SHORT where there is less, or with the reason of `end`. */
  async fill(into: Uint8Array, offset: number, address: bigint): Promise<void> {
    if (this.#ended !== undefined) throw this.#ended;
    const wanted = { source: this.#name, address };
    const controller = new AbortController();
    const cancel = (reason: Error): void => controller.abort(reason);
    let last: unknown;
    const timer = setTimeout(() => cancel(latePage(wanted, this.#timeoutMs, last)), this.#timeoutMs);
    this.#cancels.add(cancel);
    try {
      await this.#tries(into, offset, wanted, controller.signal, (error) => {
        last = error;
      });
    } finally {
      clearTimeout(timer);
      this.#cancels.delete(cancel);
    }
  }

  /** What is under way rejects with this reason, and so does what comes later. Closes the source. */
  async end(reason: Error): Promise<void> {
    this.#ended = reason;
    for (const cancel of this.#cancels) cancel(reason);
    const source = await this.#source?.catch(() => undefined); // it was never open
    await source?.close();
  }

  async #tries(
    into: Uint8Array,
    offset: number,
    wanted: WantedPage,
    signal: AbortSignal,
    failedWith: (error: unknown) => void,
  ): Promise<void> {
    const deadline = performance.now() + this.#timeoutMs;
    for (let failed = 1; ; failed++) {
      try {
        return await untilAborted(this.#try(into, offset, wanted, signal), signal);
      } catch (error) {
        if (signal.aborted) throw signal.reason;
        if (isPermanent(error)) throw error;
        failedWith(error);
        const ms = pauseBeforeRetry(failed, deadline - performance.now(), this.#timeoutMs);
        if (ms === undefined) throw latePage(wanted, this.#timeoutMs, error);
        await untilAborted(pause(ms), signal);
        signal.throwIfAborted(); // after `end` no source is opened
        this.#retried();
      }
    }
  }

  async #try(into: Uint8Array, offset: number, wanted: WantedPage, signal: AbortSignal): Promise<void> {
    let got: number;
    let retries = true; // until it is open: what is of no use to try again says so
    try {
      const source = await this.open();
      retries = source.retries;
      got = await source.read(offset, into, signal);
    } catch (error) {
      const told = sourceFailure(error, wanted);
      throw retries ? told : Object.assign(told, { permanent: true });
    }
    if (got < into.byteLength) throw shortPage(wanted, got, into.byteLength);
  }

  /** Once for all pages; again where it failed. */
  open(): Promise<PageSource> {
    this.#source ??= this.#openSource().catch((error: unknown) => {
      this.#source = undefined;
      throw error;
    });
    return this.#source;
  }
}
