/**
 * A page server: listens at a Unix socket and answers each client's requests for pages from one store. On the event loop of the thread that
 * made it.
 */

import { EventEmitter } from 'node:events';
import { Socket } from 'node:net';
import type { PageMessage } from '../errors/page-source-error.js';
import { PagefaultError } from '../errors/pagefault-error.js';
import { asError } from '../errors/reason.js';
import type { Peer, UnixListener, UnixSocket, Watch } from '../kernel/index.js';
import { closeFd } from '../kernel/index.js';
import { isWirePageSize } from '../stores/uds/protocol.js';
import { type HandlerCounts, handlerCounts } from './handler-counts.js';
import { mayPass } from './listen.js';
import { PageConnection, type PageHost } from './page-connection.js';
import type { PageReader } from './page-reader.js';

/** Who is connected to a page server. */
export interface PageClientInfo {
  /** Number of the connection, from 1. */
  readonly id: number;
  /** As it was when it connected; pid 0 where the process is not visible from here. */
  readonly peer: Peer;
}

/** What a page server tells as it happens: the arguments of its listeners. */
export interface PageServerEvents {
  /** Somebody has connected. */
  client: [client: PageClientInfo];
  /** A connection is over. */
  gone: [client: PageClientInfo];
  /** A client asked for what there is not, or did not keep to the protocol; its connection is closed. */
  refused: [client: PageClientInfo, why: string];
  /** A page cannot be had; the connection that asked for it is closed. */
  pageerror: [error: Error, page: { client: PageClientInfo; address: bigint }];
}

/** Plain numbers, read at once. */
export interface PageServerStats extends HandlerCounts {
  /** Connected now. */
  readonly clients: number;
  /** Connections so far. */
  readonly connections: number;
  /** Pages that were sent. */
  readonly pages: number;
  /** Bytes of these. */
  readonly bytes: number;
  /** Connections that were closed for what they asked. */
  readonly refused: number;
  /** Pages that could not be had. */
  readonly failures: number;
  /** Reads of the store that were tried again. */
  readonly retries: number;
}

/** What `servePages` has checked and opened. */
export interface PageServerParts {
  readonly listener: UnixListener;
  readonly reader: PageReader;
  readonly base: bigint;
  /** Of the store; undefined: not known. */
  readonly byteLength: number | undefined;
  readonly maxPageSize: number;
  readonly maxClients: number;
  /** Where the reader counts what it tries again. */
  readonly counts: { retries: number };
}

/** How long a connection waits that cannot be accepted for want of descriptors. */
const PAUSE_MS = 100;

export class PageServer extends EventEmitter<PageServerEvents> implements AsyncDisposable {
  /** Of the socket; absolute. */
  readonly path: string;
  /** The address of the store's first byte. */
  readonly base: bigint;
  readonly #parts: PageServerParts;
  readonly #clients = new Set<PageConnection>();
  readonly #counts = { connections: 0, pages: 0, bytes: 0, refused: 0, failures: 0 };
  readonly #host: PageHost;
  #watch: Watch | undefined;
  #pause: NodeJS.Timeout | undefined;
  #closing: Promise<void> | undefined;
  /** The last client is gone, of a server that is being closed. */
  #whenEmpty: (() => void) | undefined;

  /** Made by `servePages`. */
  constructor(parts: PageServerParts) {
    super();
    this.#parts = parts;
    this.path = parts.listener.path;
    this.base = parts.base;
    this.#host = this.#makeHost();
    this.#listen();
  }

  stats(): PageServerStats {
    return { clients: this.#clients.size, ...this.#counts, retries: this.#parts.counts.retries, ...handlerCounts() };
  }

  /** Stops listening, removes the socket's file, ends all connections, closes the store if it was opened here. Idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #close(): Promise<void> {
    clearTimeout(this.#pause);
    this.#watch?.close();
    this.#parts.listener.close();
    const gone = new Promise<void>((resolve) => {
      this.#whenEmpty = resolve;
    });
    if (this.#clients.size === 0) this.#whenEmpty?.();
    for (const client of this.#clients) client.close();
    await this.#parts.reader.end(new PagefaultError('ERR_PAGEFAULT_CLOSED', 'the page server is closed'));
    await gone;
  }

  #makeHost(): PageHost {
    const { reader, base } = this.#parts;
    return {
      refusal: (request) => this.#refusal(request),
      fill: (into, address) => {
        const offset = Number(address - base);
        const { byteLength } = this.#parts;
        const there = byteLength === undefined ? into : into.subarray(0, byteLength - offset); // behind the end it is zero
        return reader.fill(there, offset, address);
      },
      served: (byteLength) => {
        this.#counts.pages += 1;
        this.#counts.bytes += byteLength;
      },
      refused: (client, why) => {
        this.#counts.refused += 1;
        this.emit('refused', client, why);
      },
      failed: (client, error, address) => {
        this.#counts.failures += 1;
        if (this.#closing === undefined) this.emit('pageerror', error, { client, address });
      },
      gone: (client) => {
        this.#clients.delete(client);
        if (this.#clients.size === 0) this.#whenEmpty?.();
        this.emit('gone', client);
        this.#listen();
      },
    };
  }

  #refusal({ address, pageSize }: PageMessage): string | undefined {
    const { base, byteLength, maxPageSize } = this.#parts;
    const bytes = pageSize <= BigInt(maxPageSize) ? Number(pageSize) : undefined;
    if (bytes === undefined || !isWirePageSize(bytes))
      return `a page has 4096 bytes or more, a power of two, and ${maxPageSize} at most`;
    if (address % pageSize !== 0n) return 'the address is not a multiple of the page size';
    if (address < base) return `the store begins at 0x${base.toString(16)}`;
    const end = byteLength === undefined ? 1n << 64n : base + BigInt(byteLength);
    if (address >= end) return `the store ends at 0x${end.toString(16)}`;
    return address - base <= BigInt(Number.MAX_SAFE_INTEGER)
      ? undefined
      : 'the address is more than 2^53 bytes above the base';
  }

  /** Accepts while there is room. */
  #listen(): void {
    if (this.#closing !== undefined || this.#watch !== undefined || this.#pause !== undefined) return;
    if (this.#clients.size >= this.#parts.maxClients) return;
    this.#watch = this.#parts.listener.onReadable(() => this.#accept());
  }

  #rest(): void {
    this.#watch?.close();
    this.#watch = undefined;
  }

  #accept(): void {
    try {
      for (let socket = this.#next(); socket !== undefined; socket = this.#next()) this.#admit(socket);
      if (this.#clients.size >= this.#parts.maxClients) this.#rest();
    } catch (error) {
      // The connection waits in the kernel. It is looked for again in a while: to be told of it all the time would be no use.
      if (!mayPass(error)) throw error;
      this.#rest();
      this.#pause = setTimeout(() => {
        this.#pause = undefined;
        this.#listen();
      }, PAUSE_MS);
    }
  }

  /** Whoever hears of a client may close the server. */
  #next(): UnixSocket | undefined {
    const { listener, maxClients } = this.#parts;
    return this.#clients.size < maxClients && !listener.closed ? listener.accept() : undefined;
  }

  #admit(connected: UnixSocket): void {
    const peer = connected.peer();
    const fd = connected.intoFd();
    let socket: Socket;
    try {
      socket = new Socket({ fd, allowHalfOpen: true, readable: true, writable: true });
    } catch (error) {
      closeFd(fd);
      throw asError(error);
    }
    this.#counts.connections += 1;
    const client = new PageConnection(this.#counts.connections, socket, peer, this.#host);
    this.#clients.add(client);
    this.emit('client', client);
  }
}
