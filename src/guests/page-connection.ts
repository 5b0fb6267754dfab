/**
 * One client of a page server. Requests are answered in their order, however they are cut into pieces on their way, and read from the
 * source many at a time. On the event loop of the server's thread.
 *
 *     bytes ──▶ head ──▶ checked ──▶ being read ──▶ read ──▶ written, once those before it are
 *                          │                         │
 *                          └── refused: what was asked before is answered, then the connection is closed ◀── cannot be had
 *
 * A client has at most {@link IN_FLIGHT} bytes of answers here, be they on their way from the source or not yet taken by the client; until
 * it takes them nothing more is read of what it sends.
 */

import type { Socket } from 'node:net';
import type { PageMessage } from '../errors/page-source-error.js';
import type { Peer } from '../kernel/index.js';
import { decodeHead, encodeHead, HEAD_BYTES, shownMessage } from '../stores/uds/protocol.js';

const IN_FLIGHT = 4 * 2 ** 20;
/** Reads of one client that the source has at once: a client that asks for much does not keep the others waiting. */
const READS = 16;
/** How long a client that was refused may take to close its end. */
const LINGER_MS = 1000;

/** What a connection needs of its server. */
export interface PageHost {
  /** Why a request is not answered; undefined: it is. */
  refusal(request: PageMessage): string | undefined;
  /** Fills `into` with the page, what lies behind the store's end with zeroes. */
  fill(into: Uint8Array, address: bigint): Promise<void>;
  served(byteLength: number): void;
  refused(connection: PageConnection, why: string): void;
  /** The page cannot be had. */
  failed(connection: PageConnection, error: Error, address: bigint): void;
  gone(connection: PageConnection): void;
}

/** An answer that is not written yet. */
interface Answer {
  readonly address: bigint;
  readonly bytes: Uint8Array;
  state: 'waiting' | 'reading' | 'ready' | 'failed';
}

export class PageConnection {
  readonly id: number;
  /** Who is at the other end, as it was when it connected. */
  readonly peer: Peer;
  readonly #socket: Socket;
  readonly #host: PageHost;
  readonly #head = new Uint8Array(HEAD_BYTES);
  readonly #answers: Answer[] = [];
  readonly #waiting: Answer[] = [];
  #reading = 0;
  #headBytes = 0;
  /** Bytes of answers that the client has not taken. */
  #inFlight = 0;
  /** What came and is not looked at before there is room for its answers. */
  #rest: Buffer | undefined;
  /** Nothing more is taken from the client: it has ended, or was refused. */
  #deaf = false;

  constructor(id: number, socket: Socket, peer: Peer, host: PageHost) {
    this.id = id;
    this.peer = peer;
    this.#socket = socket;
    this.#host = host;
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    socket.on('end', () => this.#hangUp()); // not before what it sent has been taken
    socket.on('error', () => {}); // 'close' follows
    socket.on('close', () => host.gone(this));
  }

  /** At once, whatever is on its way. */
  close(): void {
    this.#deaf = true;
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length && !this.#deaf) {
      if (this.#inFlight >= IN_FLIGHT) {
        this.#socket.pause();
        this.#rest = chunk.subarray(at);
        return;
      }
      const part = chunk.subarray(at, at + HEAD_BYTES - this.#headBytes);
      this.#head.set(part, this.#headBytes);
      this.#headBytes += part.length;
      at += part.length;
      if (this.#headBytes === HEAD_BYTES) this.#asked(decodeHead(this.#head));
    }
  }

  #asked(request: PageMessage): void {
    this.#headBytes = 0;
    const why = this.#host.refusal(request);
    if (why !== undefined) {
      this.#host.refused(this, `${shownMessage(request)}: ${why}`);
      this.#hangUp();
      return;
    }
    const { address } = request;
    const pageSize = Number(request.pageSize);
    const answer: Answer = { address, bytes: new Uint8Array(HEAD_BYTES + pageSize), state: 'waiting' };
    encodeHead(answer.bytes, address, pageSize);
    this.#answers.push(answer);
    this.#waiting.push(answer);
    this.#inFlight += answer.bytes.byteLength;
    this.#begin();
  }

  #begin(): void {
    while (this.#reading < READS && !this.#socket.destroyed) {
      const answer = this.#waiting.shift();
      if (answer === undefined) return;
      this.#reading += 1;
      answer.state = 'reading';
      this.#host.fill(answer.bytes.subarray(HEAD_BYTES), answer.address).then(
        () => this.#settled(answer, 'ready'),
        (error: Error) => {
          if (!this.#socket.destroyed) this.#host.failed(this, error, answer.address);
          this.#settled(answer, 'failed');
        },
      );
    }
  }

  #settled(answer: Answer, state: 'ready' | 'failed'): void {
    this.#reading -= 1;
    answer.state = state;
    while (!this.#socket.destroyed) {
      const first = this.#answers[0];
      if (first === undefined || first.state === 'reading' || first.state === 'waiting') break;
      if (first.state === 'failed') {
        this.#waiting.length = 0;
        this.#answers.length = 0; // the protocol has no word for it: the client sees the end, and knows what it did not get
        this.#deaf = true;
        break;
      }
      this.#answers.shift();
      this.#write(first.bytes);
    }
    this.#begin();
    this.#endIfDone();
  }

  #write(bytes: Uint8Array): void {
    this.#host.served(bytes.byteLength - HEAD_BYTES);
    this.#socket.write(bytes, () => {
      this.#inFlight -= bytes.byteLength;
      this.#goOn();
    });
  }

  /** There is room again. */
  #goOn(): void {
    const rest = this.#rest;
    if (rest === undefined || this.#inFlight >= IN_FLIGHT) return;
    this.#rest = undefined;
    this.#take(rest);
    if (this.#rest === undefined) this.#socket.resume();
  }

  /** What was asked for is still answered. */
  #hangUp(): void {
    this.#deaf = true;
    this.#endIfDone();
  }

  #endIfDone(): void {
    if (!this.#deaf || this.#answers.length > 0 || this.#socket.writableEnded) return;
    // What it still sends is taken and dropped for a while: one that cannot write any more may not read what was written for it.
    this.#socket.end(() => {
      const linger = setTimeout(() => this.#socket.destroy(), LINGER_MS).unref();
      this.#socket.once('close', () => clearTimeout(linger));
    });
  }
}
