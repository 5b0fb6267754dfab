/**
 * The stream of a VM, cut into handshakes. Each is a JSON array without a length or an end mark, and descriptors that come with its first byte; it may
 * come in pieces, several in one, and from anybody. Knows neither sockets nor what is in a handshake. Any thread.
 */

import { GuestError } from '../../errors/guest-error.js';

/** More than Firecracker can have regions for, and than any of its handlers reads. */
export const MOST_BYTES: number = 64 * 1024;
/** The userfaultfd, the memory object of a fork of Firecracker, and one more, to be able to say what is wrong. */
const MOST_FDS = 16;

const SPACES = [0x20, 0x09, 0x0a, 0x0d];
const [QUOTE, BACKSLASH, OPEN, CLOSE, OPEN_OBJECT, CLOSE_OBJECT] = [0x22, 0x5c, 0x5b, 0x5d, 0x7b, 0x7d];

/** What has come of one handshake. The descriptors are the taker's. */
export interface RawHandshake {
  readonly text: string;
  readonly fds: number[];
}

/** An error of a handshake. `why` completes "the handshake of process 1234 is refused". */
export function refusal(pid: number, why: string, thrown?: unknown): GuestError {
  const who = pid > 0 ? `process ${pid}` : 'a process that is not visible from here';
  return new GuestError('ERR_PAGEFAULT_GUEST_HANDSHAKE', `the handshake of ${who} is refused: ${why}`, {
    pid,
    cause: thrown instanceof Refused ? thrown.cause : thrown,
  });
}

/** What is wrong with a handshake, before somebody puts the process to it. */
export class Refused extends Error {}

/** One a connection. What it throws ends the connection. */
export class HandshakeReader {
  /** Room that grows, so that a stream of single bytes is not copied for each. */
  #room: Uint8Array = new Uint8Array(0);
  /** Of handshakes that are not complete: a part of the room. */
  #bytes: Uint8Array = this.#room;
  readonly #fds: number[] = [];
  /** How far they have been looked at, so that no byte is looked at twice. */
  #at = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;

  /** Bytes and descriptors that are not part of a whole handshake yet. */
  get pending(): { readonly byteLength: number; readonly fds: number } {
    return { byteLength: this.#bytes.byteLength, fds: this.#fds.length };
  }

  /** What one `recvmsg` has brought. The descriptors are the reader's until `next` gives them away. */
  push(bytes: Uint8Array, fds: readonly number[]): void {
    this.#append(bytes);
    this.#fds.push(...fds);
    if (this.#fds.length > MOST_FDS) throw new Refused(`${this.#fds.length} descriptors came, and one is expected`);
  }

  /**
   * The next one that is complete. `isMain` tells a userfaultfd, with which each set of descriptors begins: only so can be told to whom they belong
   * where several handshakes come at once.
   */
  next(isMain: (fd: number) => boolean): RawHandshake | undefined {
    const end = this.#findEnd();
    if (end === undefined) {
      if (this.#bytes.byteLength > MOST_BYTES) {
        throw new Refused(`it has more than ${MOST_BYTES} bytes and no end`);
      }
      if (this.#bytes.byteLength === 0 && this.#fds.length > 0) {
        throw new Refused(`${this.#fds.length} descriptors more came than handshakes`);
      }
      return undefined;
    }
    if (end > MOST_BYTES) throw new Refused(`it has more than ${MOST_BYTES} bytes`);
    const text = this.#decode(this.#bytes.subarray(0, end));
    this.#bytes = this.#bytes.subarray(end);
    this.#at = 0;
    this.#skipSpace();
    return { text, fds: this.#take(isMain) };
  }

  #append(bytes: Uint8Array): void {
    const { byteLength, byteOffset } = this.#bytes;
    let begin = byteOffset;
    if (begin + byteLength + bytes.byteLength > this.#room.byteLength) {
      const room = new Uint8Array(2 * (byteLength + bytes.byteLength));
      room.set(this.#bytes);
      this.#room = room;
      begin = 0;
    }
    this.#room.set(bytes, begin + byteLength);
    this.#bytes = this.#room.subarray(begin, begin + byteLength + bytes.byteLength);
  }

  /** Descriptors that nobody has taken; the reader has them no more. */
  drain(): number[] {
    return this.#fds.splice(0);
  }

  /** All that are there where nothing follows; else up to the next one that a set begins with. */
  #take(isMain: (fd: number) => boolean): number[] {
    if (this.#bytes.byteLength === 0) return this.drain();
    const next = this.#fds.findIndex((fd, index) => index > 0 && isMain(fd));
    return this.#fds.splice(0, next < 0 ? this.#fds.length : next);
  }

  #decode(bytes: Uint8Array): string {
    try {
      return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    } catch {
      throw new Refused('it is no UTF-8 text');
    }
  }

  #skipSpace(): void {
    let at = 0;
    while (at < this.#bytes.byteLength && SPACES.includes(this.#bytes[at] ?? 0)) at++;
    if (at > 0) this.#bytes = this.#bytes.subarray(at);
  }

  /** Behind the bracket that closes the first array. */
  #findEnd(): number | undefined {
    if (this.#at === 0) {
      this.#skipSpace();
      if (this.#bytes.byteLength === 0) return undefined;
      if (this.#bytes[0] !== OPEN) throw new Refused(`it begins with ${this.#beginning()}, not with a JSON array`);
    }
    const bytes = this.#bytes;
    for (; this.#at < bytes.byteLength; this.#at++) {
      if (!this.#closes(bytes[this.#at] ?? 0)) continue;
      return this.#at + 1;
    }
    return undefined;
  }

  /** Whether this byte closes the array. */
  #closes(byte: number): boolean {
    if (this.#escaped) this.#escaped = false;
    else if (this.#inString) {
      if (byte === BACKSLASH) this.#escaped = true;
      else if (byte === QUOTE) this.#inString = false;
    } else if (byte === QUOTE) this.#inString = true;
    else if (byte === OPEN || byte === OPEN_OBJECT) this.#depth++;
    else if (byte === CLOSE || byte === CLOSE_OBJECT) {
      this.#depth--;
      return this.#depth === 0;
    }
    return false;
  }

  /** What can be shown of the first bytes. */
  #beginning(): string {
    const [first = 0] = this.#bytes;
    const text = Buffer.from(this.#bytes.subarray(0, 24)).toString('latin1');
    if (/^[\x20-\x7e]+/.test(text)) return `'${text.replace(/[^\x20-\x7e].*$/s, '')}'`;
    return `byte 0x${first.toString(16).padStart(2, '0')}`;
  }
}
