/**
 * The asking end of a page server's socket. One connection for all requests: each is written at once and whole, so that none mixes with
 * another, and answers belong to the requests in their order. On the event loop of the thread that made it, which must not be one that
 * waits for the pages: the pager's Worker, or a thread that serves other processes.
 *
 *     read ──▶ connected? ──▶ request written ──▶ head ──▶ page ──▶ resolves
 *                  │ no                             │ not what was asked: PROTOCOL, and a new connection for the others
 *                  ▼                                ▼
 *              connects (once for all)       connection lost: the oldest rejects with IO, the others are asked for again
 */

import { createConnection, type Socket } from 'node:net';
import { constants } from 'node:os';
import { setTimeout as pause } from 'node:timers/promises';
import { shown } from '../../errors/argument.js';
import { type PageMessage, PageSourceError } from '../../errors/page-source-error.js';
import { reasonOf } from '../../errors/reason.js';
import { decodeHead, encodeHead, HEAD_BYTES, shownMessage } from './protocol.js';

/** How long a listener whose queue is full is tried. */
const FULL_MS = 5000;
const PAUSE_MS = 5;

/** What was asked for and has not been answered. */
interface Request {
  readonly address: bigint;
  readonly pageSize: number;
  /** undefined: nobody wants the answer any more, which comes all the same. */
  into: Uint8Array | undefined;
  resolve(): void;
  reject(error: Error): void;
}

/** A connection, and what is on its way through it. */
class Connection {
  readonly socket: Socket;
  readonly requests: Request[] = [];
  readonly #path: string;
  readonly #again: (requests: readonly Request[]) => void;
  readonly #head = new Uint8Array(HEAD_BYTES);
  #headBytes = 0;
  #pageBytes = 0;
  #lost: Error | undefined;

  /** `again` gets what was asked for behind the request that a lost connection was about. */
  constructor(socket: Socket, path: string, again: (requests: readonly Request[]) => void) {
    this.socket = socket;
    this.#path = path;
    this.#again = again;
    socket.unref();
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('error', (error) => {
      this.#lost ??= this.#io(`the connection to the page server at ${shown(path)} failed: ${error.message}`, error);
    });
    socket.on('close', () => this.end(this.#io(`the page server at ${shown(path)} has closed the connection`)));
  }

  get usable(): boolean {
    return this.#lost === undefined && !this.socket.destroyed && this.socket.writable;
  }

  ask(request: Request): void {
    if (this.#lost !== undefined) {
      request.reject(this.#lost);
      return;
    }
    const bytes = new Uint8Array(HEAD_BYTES);
    encodeHead(bytes, request.address, request.pageSize);
    if (this.requests.length === 0) this.socket.ref();
    this.requests.push(request);
    this.socket.write(bytes);
  }

  /**
   * The oldest request ends with this error, or with an earlier one: a server that refuses answers what was asked before, and closes. The
   * others are asked for again over the next connection, so that each connection settles one request at least.
   */
  end(error: Error): void {
    this.#lost ??= error;
    this.requests.shift()?.reject(this.#lost);
    this.#leave();
  }

  #leave(): void {
    this.socket.destroy();
    if (this.requests.length > 0) this.#again(this.requests.splice(0));
  }

  #io(sentence: string, cause?: unknown): PageSourceError {
    return new PageSourceError('ERR_PAGEFAULT_IO', sentence, { path: this.#path, cause });
  }

  #take(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length && this.#lost === undefined)
      at = this.#headBytes < HEAD_BYTES ? this.#takeHead(chunk, at) : this.#takePage(chunk, at);
  }

  #takeHead(chunk: Buffer, at: number): number {
    const request = this.requests[0];
    if (request === undefined) {
      this.end(
        this.#io(
          `the connection was given up, because the page server at ${shown(this.#path)} sent what nobody asked for`,
        ),
      );
      return chunk.length;
    }
    const part = chunk.subarray(at, at + HEAD_BYTES - this.#headBytes);
    this.#head.set(part, this.#headBytes);
    this.#headBytes += part.length;
    if (this.#headBytes === HEAD_BYTES) this.#check(request, decodeHead(this.#head));
    return at + part.length;
  }

  #check({ address, pageSize, reject }: Request, received: PageMessage): void {
    const expected = { address, pageSize: BigInt(pageSize) };
    if (expected.address === received.address && expected.pageSize === received.pageSize) return;
    const sentence = `the page server at ${shown(this.#path)} does not keep to the protocol: ${shownMessage(expected)} was expected, ${shownMessage(received)} was received`;
    this.requests.shift();
    reject(new PageSourceError('ERR_PAGEFAULT_PROTOCOL', sentence, { path: this.#path, address, expected, received }));
    this.#lost ??= this.#io(`the connection was given up, because ${sentence}`);
    this.#leave();
  }

  #takePage(chunk: Buffer, at: number): number {
    const request = this.requests[0];
    if (request === undefined) return chunk.length;
    const part = chunk.subarray(at, at + request.pageSize - this.#pageBytes);
    request.into?.set(part, this.#pageBytes);
    this.#pageBytes += part.length;
    if (this.#pageBytes === request.pageSize) {
      this.requests.shift();
      this.#headBytes = 0;
      this.#pageBytes = 0;
      if (this.requests.length === 0) this.socket.unref();
      request.resolve();
    }
    return at + part.length;
  }
}

/** A page server, as seen by who asks it. */
export class PageClient {
  readonly path: string;
  #connection: Connection | undefined;
  #connecting: Promise<Connection> | undefined;
  #met = false;
  #closed = false;

  constructor(path: string) {
    this.path = path;
  }

  /** Connects, where it is not. @throws {PageSourceError} OPEN: the first time; IO: later, when it may only be away for a while */
  async connect(): Promise<void> {
    await this.#connected();
  }

  /**
   * Fills `into`, which has `pageSize` bytes, with the page at `address`. After `signal` is aborted `into` is not written to any more.
   * @throws {PageSourceError} OPEN, as `connect`; IO: the connection was lost, and another try may do; PROTOCOL
   */
  async read(address: bigint, into: Uint8Array, signal?: AbortSignal): Promise<void> {
    const connection = this.#usable() ?? (await this.#connected());
    signal?.throwIfAborted();
    await new Promise<void>((resolve, reject) => {
      const request: Request = { address, pageSize: into.byteLength, into, resolve, reject };
      const abort = (): void => {
        request.into = undefined;
        reject(signal?.reason);
      };
      const ended = (): void => signal?.removeEventListener('abort', abort);
      request.resolve = () => {
        ended();
        resolve();
      };
      request.reject = (error) => {
        ended();
        reject(error);
      };
      signal?.addEventListener('abort', abort, { once: true });
      connection.ask(request);
    });
  }

  close(): void {
    this.#closed = true;
    this.#connection?.end(this.#failure('ERR_PAGEFAULT_IO', 'the store was closed'));
    this.#connection = undefined;
  }

  #askAgain(requests: readonly Request[]): void {
    const wanted = requests.filter(({ into }) => into !== undefined);
    if (wanted.length === 0) return;
    this.#connected().then(
      (connection) => {
        for (const request of wanted) if (request.into !== undefined) connection.ask(request);
      },
      (error: Error) => {
        for (const request of wanted) request.reject(error);
      },
    );
  }

  #usable(): Connection | undefined {
    return this.#connection?.usable === true ? this.#connection : undefined;
  }

  #connected(): Promise<Connection> {
    const usable = this.#usable();
    if (usable !== undefined) return Promise.resolve(usable);
    this.#connecting ??= this.#open().finally(() => {
      this.#connecting = undefined;
    });
    return this.#connecting;
  }

  /** Where the listener's queue is full, again in a moment. */
  async #open(): Promise<Connection> {
    const patience = performance.now() + FULL_MS;
    for (;;) {
      try {
        return await this.#dial();
      } catch (error) {
        const full = error instanceof PageSourceError && error.errno === constants.errno.EAGAIN;
        if (!full || performance.now() > patience) throw error;
        await pause(PAUSE_MS);
      }
    }
  }

  #dial(): Promise<Connection> {
    return new Promise((resolve, reject) => {
      if (this.#closed) {
        reject(this.#failure('ERR_PAGEFAULT_IO', 'the store was closed'));
        return;
      }
      const socket = createConnection(this.path);
      const failed = (error: NodeJS.ErrnoException): void => {
        reject(this.#failure(this.#met ? 'ERR_PAGEFAULT_IO' : 'ERR_PAGEFAULT_OPEN', whyNot(error), error));
      };
      socket.once('error', failed);
      socket.once('connect', () => {
        socket.off('error', failed);
        this.#met = true;
        const connection = new Connection(socket, this.path, (requests) => this.#askAgain(requests));
        this.#connection = connection;
        if (this.#closed) this.close();
        resolve(connection);
      });
    });
  }

  #failure(
    code: 'ERR_PAGEFAULT_IO' | 'ERR_PAGEFAULT_OPEN',
    why: string,
    error?: NodeJS.ErrnoException,
  ): PageSourceError {
    const errno = error?.errno === undefined ? undefined : Math.abs(error.errno);
    const details = { path: this.path, cause: error, errno, syscall: error?.syscall };
    return new PageSourceError(code, `the page server at ${shown(this.path)} cannot be reached: ${why}`, details);
  }
}

function whyNot(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case 'ENOENT':
      return 'there is no such file (ENOENT)';
    case 'ECONNREFUSED':
      return 'nobody listens there: the file is no socket, or a process left it behind (ECONNREFUSED)';
    case 'EACCES':
      return 'there is no permission to connect (EACCES)';
    case 'EAGAIN':
      return 'the queue of the listener is full (EAGAIN)';
    default:
      return reasonOf(error);
  }
}
