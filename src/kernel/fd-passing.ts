/** File descriptors through Unix sockets (SCM_RIGHTS), one message at a time. Any thread; nothing here blocks. */

import { constants } from 'node:os';
import { types } from 'node:util';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { DescriptorError } from '../errors/descriptor-error.js';
import { CUT, SOCKET_KIND } from '../native/kernel/process.js';
import { native } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { checkFd, descriptorTarget, systemError, wrongDescriptor } from './descriptor.js';

/** The most descriptors that the kernel passes with one message. */
export const MAX_FDS = 253;
const DEFAULT_BYTES = 64 * 1024;
const MAX_BYTES = 2 ** 30;

const { EAGAIN, EBADF, ECONNRESET, EFAULT, ENOTCONN, EPIPE } = constants.errno;
const ETOOMANYREFS = 109;

/** Something that has the descriptor of a Unix socket. */
export interface HasFd {
  readonly fd: number;
}

/** What one `recvmsg(2)` brought. */
export interface Received {
  /** Empty: the other end has closed. */
  bytes: Uint8Array;
  /** Close-on-exec, and yours to close. */
  fds: number[];
}

export interface ReceiveOptions {
  /**
   * At most this many bytes.
   * @default 65536
   */
  byteLength?: number;
  /**
   * At most this many descriptors, 0 to 253. When more come, all are closed.
   * @default 253
   */
  maxFds?: number;
}

/** The number of a socket, given as it is or by its object. */
function socketFd(who: string, socket: number | HasFd): number {
  const fd = typeof socket === 'object' && socket !== null ? socket.fd : socket;
  checkFd(who, fd);
  return fd;
}

/** The kind of a Unix socket (SOCKET_KIND); throws a DescriptorError for everything else. */
export function unixKind(who: string, fd: number): number {
  const kind = native().unixKind(fd);
  if (kind < 0) throw wrongDescriptor(who, fd, 'a Unix socket');
  return kind;
}

/** Throws unless these are bytes. */
export function checkBytes(who: string, bytes: unknown): asserts bytes is Uint8Array {
  if (!types.isUint8Array(bytes)) throw wrongType(`${who}: the bytes must be a Uint8Array, not ${shown(bytes)}`);
}

function checkFds(who: string, fds: unknown): asserts fds is readonly number[] {
  if (!Array.isArray(fds)) throw wrongType(`${who}: the descriptors must be an array, not ${shown(fds)}`);
  if (fds.length > MAX_FDS) {
    throw outOfRange(`${who}: at most ${MAX_FDS} descriptors go with one message, not ${fds.length}`);
  }
  for (const fd of fds) checkFd(who, fd);
}

function sendFailure(who: string, fd: number, fds: readonly number[], errno: number): Error {
  if (errno === EBADF) {
    const bad = fds.find((one) => descriptorTarget(one) === undefined);
    return wrongDescriptor(who, bad ?? fd, bad === undefined ? 'a Unix socket' : 'open descriptors to send');
  }
  unixKind(who, fd);
  const sentences: Record<number, string> = {
    [EPIPE]: 'the other end of the socket has closed',
    [ECONNRESET]: 'the other end of the socket has closed and did not read all that was sent',
    [ENOTCONN]: 'the socket is not connected',
    [EFAULT]: 'the bytes to send lie in memory that the kernel cannot read',
    [ETOOMANYREFS]: 'too many descriptors of this user are on their way through sockets (ulimit -n limits them)',
  };
  return systemError(`${who}: ${sentences[errno] ?? 'nothing could be sent'}`, errno, 'sendmsg');
}

/** The common part of `sendFds` and `UnixSocket.send`. Bytes sent; 0: no room. */
export function sendMessage(who: string, fd: number, bytes: Uint8Array, fds: readonly number[]): number {
  checkBytes(who, bytes);
  checkFds(who, fds);
  if (fds.length > 0 && bytes.length === 0) {
    throw outOfRange(`${who}: descriptors go with the first byte, so at least one byte must be sent with them`);
  }
  const sent = native().unixSend(fd, bytes, Int32Array.from(fds), fds.length);
  if (sent === -EAGAIN) return 0;
  if (sent < 0) throw sendFailure(who, fd, fds, -sent);
  return sent;
}

/** The error for what was cut off, with what comes instead of it. */
export function cutError(who: string, cut: number): DescriptorError {
  const sentence =
    cut === CUT.fds
      ? `${who}: more descriptors were sent than there is room for, here or in this process (ulimit -n): those that came were closed`
      : `${who}: the message was longer than byteLength: the rest is lost, and the descriptors that came were closed`;
  return new DescriptorError('ERR_PAGEFAULT_TRUNCATED', sentence);
}

/** The error for a receive that failed. */
export function receiveFailure(who: string, fd: number, errno: number): Error {
  if (errno === EBADF) return wrongDescriptor(who, fd, 'a Unix socket');
  unixKind(who, fd);
  const sentence =
    errno === ECONNRESET
      ? 'the other end of the socket has closed and did not read all that was sent'
      : 'nothing could be received';
  return systemError(`${who}: ${sentence}`, errno, 'recvmsg');
}

/**
 * Sends descriptors through a Unix socket, with at least one byte. The receiver gets descriptors of its own; these stay
 * yours to close.
 *
 * @param socket a connected Unix socket
 * @param fds at most 253
 * @param bytes what is sent with them; by default one zero byte
 * @returns the bytes sent, of a stream perhaps fewer than given (the descriptors went with the first one); 0: there is no room
 * now, and nothing was sent
 * @throws {DescriptorError} not a Unix socket, or a descriptor that is not open
 * @throws {SystemError} the other end has closed (EPIPE); no SIGPIPE is raised
 */
export function sendFds(socket: number | HasFd, fds: readonly number[], bytes: Uint8Array = new Uint8Array(1)): number {
  return sendMessage('sendFds', socketFd('sendFds', socket), bytes, fds);
}

/**
 * Receives what one `recvmsg(2)` brings. Of a stream that is no unit that anybody sent: bytes sent before the descriptors come glued to
 * them. `UnixSocket` keeps bytes and descriptors as two queues.
 *
 * @returns undefined when nothing is there; empty `bytes` at the end
 * @throws {DescriptorError} not a Unix socket; or ERR_PAGEFAULT_TRUNCATED: there were more descriptors than `maxFds` or than
 * this process may open, or a message longer than `byteLength`; the descriptors that came are closed
 */
export function receiveFds(socket: number | HasFd, options: ReceiveOptions = {}): Received | undefined {
  const who = 'receiveFds';
  const fd = socketFd(who, socket);
  checkKeys(who, options, ['byteLength', 'maxFds']);
  const { byteLength = DEFAULT_BYTES, maxFds = MAX_FDS } = options;
  if (!Number.isInteger(byteLength) || byteLength < 1 || byteLength > MAX_BYTES) {
    throw outOfRange(`${who}: option 'byteLength' must be an integer from 1 to ${MAX_BYTES}, not ${shown(byteLength)}`);
  }
  if (!Number.isInteger(maxFds) || maxFds < 0 || maxFds > MAX_FDS) {
    throw outOfRange(`${who}: option 'maxFds' must be an integer from 0 to ${MAX_FDS}, not ${shown(maxFds)}`);
  }
  const into = new Uint8Array(byteLength);
  const out = new Int32Array(maxFds + 1);
  const got = native().unixReceive(fd, into, out, maxFds);
  if (got === -EAGAIN) return undefined;
  if (got < 0) throw receiveFailure(who, fd, -got);
  const [count = 0] = out;
  if (count < 0) throw cutError(who, count);
  return { bytes: into.slice(0, got), fds: [...out.subarray(1, 1 + count)] };
}

/** Throws unless `fd` is a Unix stream socket that is connected or can be. */
export function checkStream(who: string, fd: number): void {
  if (unixKind(who, fd) !== SOCKET_KIND.stream)
    throw wrongDescriptor(who, fd, 'a Unix stream socket that does not listen');
}
