/**
 * Where a `Pager` and a page server take pages from: bytes at an offset, read where nobody of this process waits for them. What
 * `pagefault/stores` names is opened here; a segment, or a store that is an object, stays its owner's to close. Any thread with an event loop.
 */

import { once } from 'node:events';
import { fstatSync, read } from 'node:fs';
import { outOfRange } from '../errors/argument.js';
import { PageSourceError } from '../errors/page-source-error.js';
import { HowToRead } from '../pager/how.js';
import { openFile } from '../segment/file-source.js';
import type { Segment } from '../segment/index.js';
import { checkStoreRef } from '../segment/source.js';
import type { PageStore } from '../stores/contract.js';
import type { CustomRef, FileRef, MemoryRef, UdsRef } from '../stores/ref.js';
import { PageClient } from '../stores/uds/client.js';
import { PAGE_BYTES } from '../stores/uds/protocol.js';
import { type GuestStore, openGuestSource } from './source.js';

/** An open source of pages. */
export interface PageSource {
  /** undefined: not known, any offset may be asked for. */
  readonly byteLength: number | undefined;
  /**
   * Fills `into` with the bytes at `offset`; the answer is how many there are, fewer only at the end. Nothing is written to `into` after
   * `signal` is aborted. An error with `permanent` is of no use to try again, and neither are those of sources that do not `retry`.
   */
  read(offset: number, into: Uint8Array, signal: AbortSignal): number | Promise<number>;
  /** A failure may pass: it is worth another try. */
  readonly retries: boolean;
  close(): Promise<void>;
}

/** How long `close` waits for reads of a file that are under way. */
const CLOSE_MS = 5000;

/** A file, read as it was when it was opened: one that changes fails. */
class FilePages implements PageSource {
  readonly byteLength: number;
  readonly retries = false;
  readonly #fd: number;
  readonly #offset: number;
  readonly #path: string;
  /** Undefined: changes are no matter. */
  readonly #version: string | undefined;
  readonly #close: () => Promise<void>;
  readonly #reads = new Set<Promise<Uint8Array>>();

  constructor(ref: FileRef) {
    const source = openFile(ref, false);
    const opened = source.native(0, source.byteLength);
    if (opened.kind !== 'file') throw new Error('unreachable');
    this.byteLength = source.byteLength;
    this.#fd = opened.fd;
    this.#offset = opened.offset;
    this.#path = ref.path;
    this.#version = ref.onChange === 'fail' ? versionOf(opened.fd) : undefined;
    this.#close = source.abandon;
  }

  async read(offset: number, into: Uint8Array, signal: AbortSignal): Promise<number> {
    const wanted = Math.max(0, Math.min(into.byteLength, this.byteLength - offset));
    // A read that nobody waits for any more goes on, so it has a buffer of its own.
    const reading = this.#readAll(new Uint8Array(wanted), offset);
    this.#reads.add(reading);
    try {
      const bytes = await reading;
      signal.throwIfAborted();
      into.set(bytes);
      return bytes.byteLength;
    } finally {
      this.#reads.delete(reading);
    }
  }

  /** What there is of the bytes. */
  async #readAll(bytes: Uint8Array, offset: number): Promise<Uint8Array> {
    for (let got = 0; got < bytes.byteLength; ) {
      const more = await this.#readSome(bytes, got, this.#offset + offset + got);
      if (more === 0) return bytes.subarray(0, got);
      got += more;
    }
    this.#checkUnchanged();
    return bytes;
  }

  #readSome(into: Uint8Array, at: number, position: number): Promise<number> {
    return new Promise((resolve, reject) => {
      read(this.#fd, into, at, into.byteLength - at, position, (error, got) =>
        error === null ? resolve(got) : reject(error),
      );
    });
  }

  #checkUnchanged(): void {
    if (this.#version === undefined || versionOf(this.#fd) === this.#version) return;
    const sentence = `${this.#path} was changed while it was being served`;
    throw new PageSourceError('ERR_PAGEFAULT_IO', sentence, { path: this.#path });
  }

  /** Waits for reads that are under way: the number of the descriptor must not become another file's meanwhile. */
  async close(): Promise<void> {
    const late = AbortSignal.timeout(CLOSE_MS);
    const ended = Promise.allSettled(this.#reads).then(() => true);
    const over = await Promise.race([ended, once(late, 'abort').then(() => false)]);
    if (over) await this.#close(); // else the disk is stuck: better a descriptor too many than a read of something else
  }
}

function versionOf(fd: number): string {
  const { size, mtimeNs } = fstatSync(fd, { bigint: true });
  return `${size} ${mtimeNs}`;
}

function memoryPages({ bytes }: MemoryRef): PageSource {
  return {
    byteLength: bytes.byteLength,
    retries: false,
    read(offset, into) {
      const part = bytes.subarray(Math.min(offset, bytes.byteLength), offset + into.byteLength);
      into.set(part);
      return part.byteLength;
    },
    close: async () => {},
  };
}

function zeroPages(byteLength: number): PageSource {
  return {
    byteLength,
    retries: false,
    read(offset, into) {
      const there = Math.max(0, Math.min(into.byteLength, byteLength - offset));
      into.fill(0, 0, there);
      return there;
    },
    close: async () => {},
  };
}

/** A page server. Whole pages, because that is what there is: the last one too. */
class ServedPages implements PageSource {
  readonly byteLength: number | undefined;
  readonly retries = true;
  readonly #client: PageClient;
  readonly #base: bigint;

  constructor(client: PageClient, { base, byteLength }: UdsRef) {
    this.#client = client;
    this.#base = base;
    this.byteLength = byteLength;
  }

  async read(offset: number, into: Uint8Array, signal: AbortSignal): Promise<number> {
    const there = this.byteLength === undefined ? into.byteLength : Math.min(into.byteLength, this.byteLength - offset);
    if (there <= 0) return 0;
    const address = this.#base + BigInt(offset);
    const whole = Math.max(PAGE_BYTES.least, 2 ** Math.ceil(Math.log2(into.byteLength)));
    if (whole > PAGE_BYTES.most) {
      throw outOfRange(`a page server gives pages of ${PAGE_BYTES.most} bytes at most, and ${whole} were asked for`);
    }
    if (whole === into.byteLength) {
      await this.#client.read(address, into, signal);
      return there;
    }
    const page = new Uint8Array(whole);
    await this.#client.read(address, page, signal);
    into.set(page.subarray(0, into.byteLength));
    return there;
  }

  async close(): Promise<void> {
    this.#client.close();
  }
}

/** A segment: what is not there is loaded without blocking the event loop. */
class SegmentPages implements PageSource {
  readonly byteLength: number;
  readonly retries = false; // the segment has tried until its own deadline
  readonly #segment: Segment;
  readonly #own: boolean;

  constructor(segment: Segment, own: boolean) {
    this.#segment = segment;
    this.byteLength = segment.byteLength;
    this.#own = own;
  }

  async read(offset: number, into: Uint8Array, signal: AbortSignal): Promise<number> {
    const there = Math.min(into.byteLength, this.byteLength - offset);
    if (there <= 0) return 0;
    const pin = await this.#segment.pin(offset, there, { signal });
    try {
      into.set(pin.bytes);
    } finally {
      pin.release();
    }
    if (this.#own) this.#segment.release(offset, there); // what is asked for once is seldom asked for again
    return there;
  }

  async close(): Promise<void> {
    if (this.#own) await this.#segment.close();
  }
}

/** A store that is an object of this thread. */
async function objectPages(store: PageStore): Promise<PageSource> {
  const source = await openGuestSource(store, 0);
  return {
    byteLength: source.byteLength,
    retries: true,
    async read(offset, into, signal) {
      const there = Math.max(0, Math.min(into.byteLength, source.byteLength - offset));
      if (there === 0) return 0;
      const bytes = new Uint8Array(there); // the store may write to it after nobody wants it any more
      const how = new HowToRead(0);
      const abort = (): void => how.abort(new Error('nobody waits for the page any more'));
      signal.addEventListener('abort', abort, { once: true });
      try {
        const supply = await source.read(offset, bytes, how);
        signal.throwIfAborted();
        if (supply === null) into.fill(0, 0, there);
        else if (supply instanceof Uint8Array) into.set(supply);
        return there;
      } finally {
        signal.removeEventListener('abort', abort);
      }
    },
    close: async () => {},
  };
}

async function servedPages(ref: UdsRef): Promise<PageSource> {
  const client = new PageClient(ref.path);
  await client.connect();
  return new ServedPages(client, ref);
}

async function customPages(ref: CustomRef, faultTimeoutMs: number): Promise<PageSource> {
  const { map } = await import('../segment/index.js');
  return new SegmentPages(await map(ref, { faultTimeoutMs, readahead: 0 }), true);
}

function isObject(store: unknown): store is object {
  return typeof store === 'object' && store !== null;
}

/** Opens what was given as `store`. Rejects with the error of the store: a StoreError, or a PageSourceError of a page server. */
export async function openPageSource(who: string, store: GuestStore, faultTimeoutMs: number): Promise<PageSource> {
  if (isObject(store) && 'pin' in store && 'address' in store) return new SegmentPages(store, false);
  if (isObject(store) && 'read' in store && typeof store.read === 'function')
    return await objectPages(store as PageStore);
  checkStoreRef(store, who);
  switch (store.kind) {
    case 'file':
      return new FilePages(store);
    case 'memory':
      return memoryPages(store);
    case 'zero':
      return zeroPages(store.byteLength);
    case 'uds':
      return await servedPages(store);
    case 'custom':
      return await customPages(store, faultTimeoutMs);
  }
}
