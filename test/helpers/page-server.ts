/** Both ends of the page server protocol by hand: a server that does what a test wants, and a client that sends what a test wants. */

import { once } from 'node:events';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { fillPattern } from '../fixtures/pattern.js';

/** A request as it came. */
export interface Asked {
  readonly address: bigint;
  readonly pageSize: bigint;
}

/** The 16 bytes of a request, and of the head of an answer. */
export function head(address: bigint, pageSize: bigint | number): Buffer {
  const bytes = Buffer.alloc(16);
  bytes.writeBigUInt64LE(address, 0);
  bytes.writeBigUInt64LE(BigInt(pageSize), 8);
  return bytes;
}

/** The answer that a server of the pattern gives, whose first byte is at `base`. */
export function answerTo({ address, pageSize }: Asked, base: bigint): Buffer {
  const page = Buffer.alloc(Number(pageSize));
  fillPattern(Number(address - base), page);
  return Buffer.concat([head(address, pageSize), page]);
}

/** A server in the hand of a test: `answer` is called for each request, in order, once the one before has been dealt with. */
export class HandServer {
  readonly asked: Asked[] = [];
  readonly sockets = new Set<Socket>();
  /** Connections so far. */
  connections = 0;
  readonly #server: Server;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async listen(
    path: string,
    answer: (asked: Asked, socket: Socket) => void | Promise<void>,
  ): Promise<HandServer> {
    const server = createServer();
    const hand = new HandServer(server);
    server.on('connection', (socket) => hand.#serve(socket, answer));
    server.listen(path);
    await once(server, 'listening');
    return hand;
  }

  #serve(socket: Socket, answer: (asked: Asked, socket: Socket) => void | Promise<void>): void {
    this.connections += 1;
    this.sockets.add(socket);
    socket.on('close', () => this.sockets.delete(socket));
    socket.on('error', () => {});
    let waiting = Buffer.alloc(0);
    let turn = Promise.resolve();
    socket.on('data', (chunk: Buffer) => {
      waiting = Buffer.concat([waiting, chunk]);
      for (; waiting.length >= 16; waiting = waiting.subarray(16)) {
        const asked = { address: waiting.readBigUInt64LE(0), pageSize: waiting.readBigUInt64LE(8) };
        this.asked.push(asked);
        turn = turn.then(() => answer(asked, socket));
      }
    });
  }

  /** As a server that dies: nothing more is answered, nobody listens. */
  async close(): Promise<void> {
    for (const socket of this.sockets) socket.destroy();
    if (!this.#server.listening) return;
    this.#server.close();
    await once(this.#server, 'close');
  }
}

/** A client in the hand of a test. */
export class HandClient {
  readonly socket: Socket;
  readonly #chunks: Buffer[] = [];
  #available = 0;
  #ended = false;
  #look: () => void = () => {};

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (chunk: Buffer) => {
      this.#chunks.push(chunk);
      this.#available += chunk.length;
      this.#look();
    });
    for (const event of ['end', 'close', 'error'] as const) {
      socket.on(event, () => {
        this.#ended = true;
        this.#look();
      });
    }
  }

  /** Waits for a server that has made its socket and does not listen yet, or whose queue is full. */
  static async connect(path: string): Promise<HandClient> {
    for (const deadline = Date.now() + 20_000; ; ) {
      const socket = createConnection({ path, allowHalfOpen: true });
      try {
        await once(socket, 'connect');
        return new HandClient(socket);
      } catch (error) {
        const { code = '' } = error as NodeJS.ErrnoException;
        if (!['ECONNREFUSED', 'EAGAIN'].includes(code) || Date.now() > deadline) throw error;
        await sleep(3);
      }
    }
  }

  send(...parts: Uint8Array[]): void {
    this.socket.write(Buffer.concat(parts));
  }

  /** So many bytes; fewer where the server has closed the connection. */
  async take(count: number): Promise<Buffer> {
    while (this.#available < count && !this.#ended) {
      await new Promise<void>((resolve) => {
        this.#look = resolve;
      });
    }
    const taken: Buffer[] = [];
    for (let wanted = Math.min(count, this.#available); wanted > 0; ) {
      const chunk = this.#chunks.shift() as Buffer;
      if (chunk.length > wanted) this.#chunks.unshift(chunk.subarray(wanted));
      taken.push(chunk.subarray(0, wanted));
      wanted -= Math.min(wanted, chunk.length);
    }
    const bytes = Buffer.concat(taken);
    this.#available -= bytes.length;
    return bytes;
  }

  /** All that comes until the server closes the connection. */
  async rest(): Promise<Buffer> {
    return await this.take(Number.POSITIVE_INFINITY);
  }

  close(): void {
    this.socket.destroy();
  }
}
