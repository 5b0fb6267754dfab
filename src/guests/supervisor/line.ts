/**
 * A daemon's connection to its supervisor: one question at a time, each with its answer, in time. When it breaks, what was asked is answered by
 * {@link LostLine}. The daemon's thread.
 */

import { SupervisorError } from '../../errors/supervisor-error.js';
import { closeFd, type UnixSocket } from '../../kernel/index.js';
import { Channel } from './channel.js';
import { type Kind, type Message, numberOf, sentenceOf } from './protocol.js';

const ANSWER_MS = 10_000;

/** The supervisor is gone, or does not answer. */
export class LostLine extends SupervisorError {}

export interface Answer {
  readonly kind: Kind;
  readonly body: Message['body'];
  readonly fds: readonly number[];
}

interface Question {
  readonly message: Message;
  readonly fds: readonly number[];
  readonly ms: number;
  resolve(answer: Answer): void;
  reject(error: Error): void;
}

/** What the supervisor says unasked. */
export interface LineEars {
  leave(): void;
  /** Somebody has connected; the descriptor is the callee's. Undefined: it had no room in this process, and is closed. */
  connection(id: number, fd: number | undefined): void;
}

export class Line {
  readonly #channel: Channel;
  readonly #questions: Question[] = [];
  readonly #ears: LineEars;
  readonly #lost: (error: LostLine) => void;
  #timer: NodeJS.Timeout | undefined;

  /** Takes the socket over. `lost` is called once, not after `close`. */
  constructor(socket: UnixSocket, ears: LineEars, lost: (error: LostLine) => void) {
    this.#ears = ears;
    this.#lost = lost;
    this.#channel = new Channel(socket, {
      heard: (message, fds, cut) => this.#heard(message, fds, cut),
      ended: (why) => this.#end(why === undefined ? 'the supervisor has ended' : `the supervisor: ${why}`),
    });
    this.#channel.keepAlive(false);
  }

  /**
   * The answer. The descriptors stay the caller's; those of the answer are the caller's, too.
   * @throws {SupervisorError} refused
   */
  ask(kind: Kind, body: Message['body'], fds: readonly number[] = [], ms: number = ANSWER_MS): Promise<Answer> {
    if (this.#channel.closed) return Promise.reject(new LostLine('the supervisor has ended'));
    return new Promise((resolve, reject) => {
      this.#questions.push({ message: { kind, body }, fds, ms, resolve, reject });
      if (this.#questions.length === 1) this.#put();
    });
  }

  /** Idempotent. */
  close(): void {
    if (this.#channel.closed) return;
    this.#channel.close();
    this.#rejectAll(new LostLine('the connection to the supervisor is closed'));
  }

  #put(): void {
    const [question] = this.#questions;
    this.#channel.keepAlive(question !== undefined);
    if (question === undefined) return;
    const { message, fds, ms } = question;
    this.#timer = setTimeout(() => this.#end(`the supervisor has not answered within ${ms} ms`), ms);
    this.#channel.send(message, fds);
  }

  #heard({ kind, body }: Message, fds: readonly number[], cut: boolean): void {
    if (kind === 'leave') {
      this.#ears.leave();
      return;
    }
    if (kind === 'connection') {
      this.#arrived(body, fds);
      return;
    }
    const question = this.#questions.shift();
    clearTimeout(this.#timer);
    if (question === undefined) return; // it refuses an answer that has come already
    if (kind === 'refused') question.reject(new SupervisorError(`the supervisor refuses: ${sentenceOf(body)}`));
    else if (cut) question.reject(new SupervisorError('no more descriptors may be open in this process (ulimit -n)'));
    else question.resolve({ kind, body, fds });
    this.#put();
  }

  #arrived(body: Message['body'], [fd, ...others]: readonly number[]): void {
    for (const other of others) closeFd(other);
    const id = numberOf(body, 'id', 1, Number.MAX_SAFE_INTEGER);
    if (id !== undefined) this.#ears.connection(id, fd);
    else if (fd !== undefined) closeFd(fd);
  }

  #end(why: string): void {
    const error = new LostLine(why);
    this.#channel.close();
    this.#rejectAll(error);
    this.#lost(error);
  }

  #rejectAll(error: LostLine): void {
    clearTimeout(this.#timer);
    for (const question of this.#questions.splice(0)) question.reject(error);
  }
}
