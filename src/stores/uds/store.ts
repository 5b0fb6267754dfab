/** The store module behind `uds()`: asks a page server. Opened in the pager's Worker. */

import type { PageStore, ReadHow } from '../contract.js';
import { PageClient } from './client.js';

/** What the thread that maps passes on. */
export interface UdsStoreOptions {
  readonly path: string;
  readonly base: bigint;
  readonly pageSize: number;
  readonly byteLength: number;
}

/** Requests on their way at once; each waits for the ones before it. */
const CONCURRENCY = 64;

class UdsStore implements PageStore {
  readonly byteLength: number;
  readonly pageSize: number;
  readonly concurrency = CONCURRENCY;
  readonly #client: PageClient;
  readonly #base: bigint;

  constructor(client: PageClient, { base, pageSize, byteLength }: UdsStoreOptions) {
    this.#client = client;
    this.#base = base;
    this.pageSize = pageSize;
    this.byteLength = byteLength;
  }

  async read(offset: number, into: Uint8Array, { signal }: ReadHow): Promise<number> {
    const { pageSize } = this;
    if (into.byteLength === pageSize && offset % pageSize === 0) await this.#page(offset, into, signal);
    else await this.#pages(offset, into, signal);
    return into.byteLength;
  }

  /** All pages that touch the range. When one fails nothing is written to `into` any more. */
  async #pages(offset: number, into: Uint8Array, signal: AbortSignal): Promise<void> {
    const { pageSize } = this;
    const end = offset + into.byteLength;
    const failed = new AbortController();
    const given = AbortSignal.any([signal, failed.signal]);
    const reads: Promise<void>[] = [];
    for (let page = offset - (offset % pageSize); page < end; page += pageSize) {
      const whole = page >= offset && page + pageSize <= end;
      const target = whole ? into.subarray(page - offset, page - offset + pageSize) : undefined;
      reads.push(target === undefined ? this.#part(page, offset, into, given) : this.#page(page, target, given));
    }
    try {
      await Promise.all(reads);
    } catch (error) {
      failed.abort(error);
      throw error;
    }
  }

  #page(page: number, into: Uint8Array, signal: AbortSignal): Promise<void> {
    return this.#client.read(this.#base + BigInt(page), into, signal);
  }

  /** The server's page is larger than what is wanted of it: the segment's pages are smaller, or the store ends in it. */
  async #part(page: number, offset: number, into: Uint8Array, signal: AbortSignal): Promise<void> {
    const whole = new Uint8Array(this.pageSize);
    await this.#page(page, whole, signal);
    signal.throwIfAborted();
    const begin = Math.max(page, offset);
    const end = Math.min(page + this.pageSize, offset + into.byteLength);
    into.set(whole.subarray(begin - page, end - page), begin - offset);
  }

  close(): void {
    this.#client.close();
  }
}

/** Connects, so that a path that leads nowhere is told when the store is opened. */
export default async function open(options: UdsStoreOptions): Promise<PageStore> {
  const client = new PageClient(options.path);
  try {
    await client.connect();
  } catch (error) {
    client.close();
    throw error;
  }
  return new UdsStore(client, options);
}
