/**
 * Messages with descriptors over a Unix socket, both ways: the daemon's and the supervisor's end alike. Nothing here waits: what has no room in
 * the socket goes out later. The thread that made it.
 */

import { reasonOf } from '../../errors/reason.js';
import { closeFd, type UnixSocket, type Watch } from '../../kernel/index.js';
import { decodeBody, decodeHead, encodeMessage, GUEST_FDS, HEAD_BYTES, type Head, type Message } from './protocol.js';

/** Whoever does not read for so long does not get more. */
const MOST_WAITING = 64;
const AGAIN_MS = 2;

export interface Ears {
  /** The descriptors are the callee's to close. `lost`: they did not fit into this process, and are closed; `fds` is empty. */
  heard(message: Message, fds: readonly number[], lost: boolean): void;
  /** Called once, also for what is no message. Not after `close`. */
  ended(why: string | undefined): void;
}

interface Outgoing {
  bytes: Uint8Array;
  fds: readonly number[];
}

export class Channel {
  readonly #socket: UnixSocket;
  readonly #ears: Ears;
  readonly #watch: Watch;
  readonly #outgoing: Outgoing[] = [];
  #head: Head | undefined;
  /** Of messages whose descriptors had no room: how many others are in the queue before theirs would be. */
  #lost: readonly number[] = [];
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  /** Takes the socket over. */
  constructor(socket: UnixSocket, ears: Ears) {
    this.#socket = socket;
    this.#ears = ears;
    this.#watch = socket.onReadable(() => this.#hear());
  }

  get closed(): boolean {
    return this.#closed;
  }

  /** Whether it keeps the event loop alive. */
  keepAlive(does: boolean): void {
    if (this.#closed) return;
    if (does) this.#watch.ref();
    else this.#watch.unref();
  }

  /** The descriptors stay the caller's, and must stay open until the answer has come. */
  send(message: Message, fds: readonly number[] = []): void {
    if (this.#closed) return;
    this.#outgoing.push({ bytes: encodeMessage(message, fds.length), fds });
    if (this.#outgoing.length > MOST_WAITING) this.#end('it does not read what it is told');
    else if (this.#timer === undefined) this.#pump();
  }

  /** What has not been sent is not sent any more. Idempotent. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#socket.close();
  }

  #pump(): void {
    this.#timer = undefined;
    try {
      for (let next = this.#outgoing[0]; next !== undefined; next = this.#outgoing[0]) {
        const sent = this.#socket.send(next.bytes, next.fds);
        if (sent === next.bytes.byteLength) {
          this.#outgoing.shift();
          continue;
        }
        if (sent > 0) this.#outgoing[0] = { bytes: next.bytes.subarray(sent), fds: [] };
        this.#timer = setTimeout(() => this.#pump(), AGAIN_MS);
        return;
      }
    } catch (error) {
      this.#end(reasonOf(error));
    }
  }

  #hear(): void {
    const state = this.#fill();
    for (let message = this.#take(); message !== undefined && !this.#closed; message = this.#take()) {
      this.#ears.heard(message.message, message.fds, message.lost);
    }
    if (this.#closed) return;
    if (this.#socket.fdCount > GUEST_FDS) this.#end('descriptors came without a message');
    else if (state === 'end') this.#end(undefined);
  }

  #fill(): 'data' | 'empty' | 'end' {
    try {
      return this.#socket.fill();
    } catch (error) {
      if ((error as { code?: unknown }).code !== 'ERR_PAGEFAULT_TRUNCATED') return 'end'; // ECONNRESET: it has ended
      // No room for descriptors. The bytes are here, and those that say so get their answer: nobody else may suffer.
      this.#lost = [...this.#lost, this.#socket.fdCount];
      return 'data';
    }
  }

  #take(): { message: Message; fds: number[]; lost: boolean } | undefined {
    const head = this.#head ?? this.#takeHead();
    if (head === undefined || this.#closed) return undefined;
    this.#head = head;
    const bytes = this.#socket.read(head.byteLength);
    if (bytes === undefined) return undefined;
    this.#head = undefined;
    const body = decodeBody(bytes);
    if (typeof body === 'string') return this.#end(body);
    const lost = head.fds > 0 && this.#lost[0] === 0;
    const fds: number[] = [];
    while (!lost && fds.length < head.fds) {
      const fd = this.#socket.takeFd();
      if (fd === undefined) break;
      fds.push(fd);
    }
    this.#lost = lost ? this.#lost.slice(1) : this.#lost.map((before) => before - fds.length);
    if (!lost && fds.length < head.fds) {
      for (const fd of fds) closeFd(fd);
      return this.#end(`a message came with ${fds.length} of its ${head.fds} descriptors`);
    }
    return { message: { kind: head.kind, body }, fds, lost };
  }

  #takeHead(): Head | undefined {
    const bytes = this.#socket.read(HEAD_BYTES);
    if (bytes === undefined) return undefined;
    const head = decodeHead(bytes);
    return typeof head === 'string' ? this.#end(head) : head;
  }

  #end(why: string | undefined): undefined {
    if (this.#closed) return;
    this.close();
    this.#ears.ended(why);
  }
}
