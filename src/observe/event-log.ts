/**
 * Events as lines of JSON, in a file or on stdout. Who writes never waits for who reads: lines queue up to a limit, beyond it they are counted
 * and left out, and one line says how many. The thread that made it.
 */
import { closeSync, constants, fstatSync, openSync, writeSync } from 'node:fs';
import { constants as os } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { shown, wrongType } from '../errors/argument.js';
import { errnoNames } from '../errors/from-native.js';
import { systemError } from '../kernel/descriptor.js';
import { native } from '../native/load.js';

const STDOUT = 1;
/** A look at hundreds of guests fits. */
const MAX_QUEUED_BYTES = 2 ** 23;
const RETRY_MS = 20;
const LAST_WORDS_MS = 1000;
const NO_FDS = new Int32Array(0);
const { EAGAIN, ECONNRESET, EPIPE } = os.errno;
const { O_APPEND, O_CREAT, O_NOCTTY, O_NONBLOCK, O_WRONLY } = constants;

const WHY: Readonly<Record<number, string>> = {
  [os.errno.ENOENT]: 'its directory does not exist',
  [os.errno.EACCES]: 'writing to it is not permitted',
  [os.errno.EISDIR]: 'it is a directory',
  [os.errno.ENXIO]: 'it is a pipe that nobody reads, or a socket',
  [os.errno.EROFS]: 'it is on a read-only file system',
};

/** Where bytes go. */
interface Sink {
  /** Bytes that were taken, or -errno. Never waits. */
  put(bytes: Uint8Array): number;
  close(): void;
}

/** A name for what happened, and what there is to say. */
export type LoggedEvent = { readonly event: string } & Readonly<Record<string, unknown>>;

/** Open until it is closed. */
export class EventLog {
  readonly #sink: Sink;
  readonly #target: string;
  #queue: Buffer[] = [];
  #queued = 0;
  #dropped = 0;
  #retry: NodeJS.Timeout | undefined;
  #warned = false;
  #over = false;

  private constructor(target: string, sink: Sink) {
    this.#target = target;
    this.#sink = sink;
  }

  /**
   * @param target a path, which is made or appended to; '-': stdout
   * @throws TypeError no path; SystemError it cannot be written to
   */
  static open(target: string): EventLog {
    if (typeof target !== 'string' || target === '' || target.includes('\0')) {
      throw wrongType(`events go to a file or to '-' (stdout), not to ${shown(target)}`);
    }
    return new EventLog(target, target === '-' ? stdoutSink() : fileSink(openFile(target)));
  }

  /** Adds the time. Never throws, never waits. */
  write(event: LoggedEvent): void {
    if (this.#over) return;
    const line = toLine(event);
    if (this.#queued + line.byteLength > MAX_QUEUED_BYTES) {
      this.#dropped += 1;
      return;
    }
    this.#push(line);
    if (this.#retry === undefined) this.#drain();
  }

  /** Writes what waits, as far as somebody reads it within a second. */
  async close(): Promise<void> {
    if (this.#over) return;
    const deadline = performance.now() + LAST_WORDS_MS;
    while (this.#queue.length > 0 && !this.#over && performance.now() < deadline) {
      await sleep(RETRY_MS);
      this.#drain();
    }
    this.#end();
  }

  #push(line: Buffer): void {
    this.#queue.push(line);
    this.#queued += line.byteLength;
  }

  #drain(): void {
    clearTimeout(this.#retry);
    this.#retry = undefined;
    while (this.#queue.length > 0) {
      // All at once: one call, not one a line.
      const bytes = this.#queue.length === 1 ? this.#queue[0] : Buffer.concat(this.#queue);
      if (bytes === undefined) return;
      const written = this.#write(bytes);
      this.#queue = written < bytes.byteLength ? [bytes.subarray(written)] : [];
      this.#queued = bytes.byteLength - written;
      if (this.#over) return;
      if (written === 0) break;
    }
    if (this.#queue.length > 0) {
      this.#retry = setTimeout(() => this.#drain(), RETRY_MS);
      this.#retry.unref();
    } else if (this.#dropped > 0) {
      this.#push(toLine({ event: 'dropped', count: this.#dropped }));
      this.#dropped = 0;
      this.#drain();
    }
  }

  #write(bytes: Buffer): number {
    const written = this.#sink.put(bytes);
    if (written >= 0) return written;
    if (written === -EPIPE || written === -ECONNRESET) {
      this.#warn('nobody reads them any more; no more are written');
      this.#end();
    } else if (written !== -EAGAIN) {
      this.#warn(`${errnoNames(-written).description}; it is tried again`);
    }
    return 0;
  }

  #warn(why: string): void {
    if (this.#warned) return;
    this.#warned = true;
    const where = this.#target === '-' ? 'stdout' : this.#target;
    process.emitWarning(`events for ${where}: ${why}`, { code: 'PAGEFAULT_EVENTS' });
  }

  #end(): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#retry);
    this.#queue = [];
    this.#sink.close();
  }
}

function toLine(event: LoggedEvent): Buffer {
  const text = JSON.stringify({ at: new Date().toISOString(), ...event }, (_key, value: unknown) =>
    typeof value === 'bigint' ? `0x${value.toString(16)}` : value,
  );
  return Buffer.from(`${text}\n`);
}

function openFile(path: string): number {
  try {
    // Non-blocking for pipes: neither opening one nor writing to it waits for its reader.
    return openSync(path, O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOCTTY, 0o666);
  } catch (error) {
    const errno = Math.abs((error as NodeJS.ErrnoException).errno ?? 0);
    const sentence = `events cannot be written to ${shown(path)}: ${WHY[errno] ?? 'it cannot be opened'}`;
    throw systemError(sentence, errno, 'open');
  }
}

function fileSink(fd: number): Sink {
  return { put: (bytes) => putInto(fd, bytes), close: () => closeSync(fd) };
}

function putInto(fd: number, bytes: Uint8Array): number {
  try {
    return writeSync(fd, bytes);
  } catch (error) {
    const { errno } = error as NodeJS.ErrnoException;
    if (errno === undefined) throw error;
    return errno;
  }
}

/**
 * Pipes and terminals are opened once more, non-blocking: the flag belongs to the open file, which stdout may share with other processes. A
 * socket cannot be opened again, but each call to it may say that it must not wait. A file never makes anybody wait, and opened again would
 * have a position of its own.
 */
function stdoutSink(): Sink {
  const asItIs: Sink = { put: (bytes) => putInto(STDOUT, bytes), close: () => {} };
  try {
    const stats = fstatSync(STDOUT);
    if (stats.isSocket()) return { ...asItIs, put: (bytes) => native().unixSend(STDOUT, bytes, NO_FDS, 0) };
    if (!stats.isFIFO() && !stats.isCharacterDevice()) return asItIs;
    return fileSink(openSync('/proc/self/fd/1', O_WRONLY | O_NONBLOCK | O_NOCTTY));
  } catch {
    return asItIs;
  }
}
