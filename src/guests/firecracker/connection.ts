/**
 * One connection of a VM: who it is, what it says, and its end. The pidfd is taken before a byte is read, so that whoever hands over memory can be
 * killed, whatever becomes of it. The server's thread.
 *
 *   accepted ──▶ waiting for a handshake ──▶ whole: admitted ──▶ open (may send more) ──▶ ended
 *                      └── late, garbage, refused: told, closed, and killed if it has handed over memory that nobody serves
 */

import { constants } from 'node:os';
import { DescriptorError } from '../../errors/descriptor-error.js';
import { GuestError } from '../../errors/guest-error.js';
import { asError, reasonOf } from '../../errors/reason.js';
import { SystemError } from '../../errors/system-error.js';
import { descriptorTarget } from '../../kernel/descriptor.js';
import { type PidFd, receiveFds, Uffd, type UnixSocket, type Watch } from '../../kernel/index.js';
import { pageSize as systemPageSize } from '../../kernel/range.js';
import { native } from '../../native/load.js';
import { HandshakeReader, type RawHandshake, Refused, refusal } from './reader.js';
import { checkAgainst, type Handshake, parseHandshake } from './regions.js';

/** What came with a handshake that can be served. Uffd and pidfd are the taker's. */
export interface Admitted {
  readonly handshake: Handshake;
  readonly uffd: Uffd;
  readonly pidfd: PidFd;
  readonly pid: number;
}

/** What the connection belongs to. */
export interface ConnectionHost {
  readonly snapshotLength: number;
  readonly handshakeTimeoutMs: number;
  /** Takes the memory over, or throws: then everything stays the connection's. */
  admit(connection: Connection, admitted: Admitted): void;
  refused(error: Error): void;
  /** The VM is gone: it has closed a connection that lasts as long as it does. */
  hungUp(connection: Connection): void;
  /** The connection is over; VMs that came by it may go on. */
  closed(connection: Connection): void;
}

/** Receives for one turn of the loop: others wait for theirs. */
const RECEIVES_AT_ONCE = 16;
const { ECONNRESET } = constants.errno;

export class Connection {
  /** As the kernel knows it; 0 where it is not visible from here. */
  readonly pid: number;
  readonly #socket: UnixSocket;
  readonly #host: ConnectionHost;
  readonly #reader = new HandshakeReader();
  /** Of the process, as long as the connection lasts: each VM gets a duplicate. */
  readonly #pidfd: PidFd;
  readonly #watch: Watch;
  #timer: NodeJS.Timeout | undefined;
  #admitted = 0;
  /** Its end of the connection lasts as long as the VM (since 1.12). */
  #lasts = false;
  #over = false;

  /** Takes the socket over. Throws where nobody would ever be able to end the process; the socket is closed then. */
  constructor(socket: UnixSocket, host: ConnectionHost) {
    this.#socket = socket;
    this.#host = host;
    this.pid = socket.peer().pid;
    this.#pidfd = pidfdOf(socket, this.pid);
    try {
      this.#watch = socket.onReadable(() => this.#read());
    } catch (error) {
      this.#pidfd.close();
      throw error;
    }
    this.#expect();
  }

  /** The process; it stays this object's. */
  get pidfd(): PidFd {
    return this.#pidfd;
  }

  /** The server ends, and its VMs with it: also the one whose handshake has come and was not read yet. */
  finish(): void {
    if (!this.#over) this.#read();
    this.close();
  }

  /** Ends the connection. VMs that came by it are not touched. Idempotent. */
  close(): void {
    if (this.#over) return;
    this.#over = true;
    clearTimeout(this.#timer);
    this.#watch.close();
    const rest = this.#reader.drain();
    if (rest.some(isUffd)) this.#kill(); // half a handshake: nobody will serve it
    closeAll(rest);
    this.#pidfd.close();
    this.#socket.close();
    this.#host.closed(this);
  }

  /** Somebody who connects and says nothing, or half of it, is not waited for. */
  #expect(): void {
    clearTimeout(this.#timer);
    const { handshakeTimeoutMs } = this.#host;
    this.#timer = setTimeout(() => {
      const admitted = this.#admitted;
      this.#read(); // it may have been this process that was late
      if (this.#admitted > admitted) return;
      const { byteLength } = this.#reader.pending;
      const what = byteLength === 0 ? 'nothing' : `${byteLength} bytes and not the end`;
      this.#refuse(new Refused(`it sent ${what} within ${handshakeTimeoutMs} ms`));
    }, handshakeTimeoutMs);
  }

  #read(): void {
    try {
      for (let i = 0; i < RECEIVES_AT_ONCE && !this.#over; i++) {
        const received = receiveFds(this.#socket);
        if (received === undefined) return;
        if (received.bytes.byteLength === 0) {
          this.#ended();
          return;
        }
        const waited = this.#reader.pending.byteLength > 0;
        this.#reader.push(received.bytes, received.fds);
        this.#takeAll(waited);
      }
    } catch (error) {
      if (error instanceof SystemError && error.errno === ECONNRESET) {
        this.#ended();
        return;
      }
      // No room for what it handed over: nobody will serve it.
      if (error instanceof DescriptorError) this.#kill();
      this.#refuse(asError(error));
    }
  }

  #takeAll(waited: boolean): void {
    for (;;) {
      const raw = this.#reader.next(isUffd);
      if (raw === undefined) break;
      this.#take(raw);
      if (this.#over) return;
    }
    const waits = this.#reader.pending.byteLength > 0;
    if (!waits) clearTimeout(this.#timer);
    else if (!waited && this.#admitted > 0) this.#expect(); // the beginning of another one
  }

  /** The end of the stream: of a release since 1.12 the end of the VM; older ones hang up when they have said what they had to. */
  #ended(): void {
    const { byteLength } = this.#reader.pending;
    if (byteLength > 0) this.#refuse(new Refused(`the connection ended after ${byteLength} bytes of it`));
    else if (this.#admitted === 0) this.#refuse(new Refused('the connection ended before it came'));
    else if (this.#lasts) this.#host.hungUp(this);
    this.close();
  }

  #take(raw: RawHandshake): void {
    let uffd: Uffd | undefined;
    let pidfd: PidFd | undefined;
    try {
      const handshake = parseHandshake(raw.text, systemPageSize());
      checkDescriptors(raw.fds);
      checkAgainst(handshake, this.#host.snapshotLength);
      if (this.pid === process.pid)
        throw new Refused('it comes from this process itself, whose faults it could not answer');
      uffd = adopt(raw.fds, handshake);
      pidfd = pidfdOf(this.#socket, this.pid);
      this.#host.admit(this, { handshake, uffd, pidfd, pid: this.pid });
      this.#admitted += 1;
      this.#lasts ||= handshake.era === '1.12';
    } catch (error) {
      // Killed before its userfaultfd is closed: it might be the last one, and its threads would go on with zeroes.
      if (uffd !== undefined || raw.fds.some(isUffd)) this.#kill();
      uffd?.close();
      pidfd?.close();
      this.#refuse(asError(error));
    } finally {
      closeAll(raw.fds);
    }
  }

  #kill(): void {
    if (this.pid === process.pid) return;
    try {
      this.#pidfd.signal('SIGKILL');
    } catch {
      // It has ended; or it belongs to somebody whom this process may not end, and who is told by the refusal.
    }
  }

  #refuse(error: Error): void {
    if (this.#over) return;
    const rest = this.#reader.drain();
    if (rest.some(isUffd)) this.#kill();
    closeAll(rest);
    this.#host.refused(error instanceof GuestError ? error : refusal(this.pid, reasonOf(error), error));
    this.close();
  }
}

/** The process at the other end; an error says that it could not be ended, and so must not be served. */
function pidfdOf(socket: UnixSocket, pid: number): PidFd {
  const unseen =
    'it has ended, or is in a process namespace that is not visible from here, and could not be ended when a page cannot be had';
  if (pid === 0) throw refusal(pid, unseen); // the kernel may give a pidfd of it all the same, by which it cannot be signalled
  try {
    return socket.peerPidFd();
  } catch (error) {
    throw refusal(pid, error instanceof SystemError ? unseen : reasonOf(error), error);
  }
}

function isUffd(fd: number): boolean {
  return descriptorTarget(fd) === 'anon_inode:[userfaultfd]';
}

/** One, a userfaultfd; or a second one, the memory object that holds the guest's memory (a fork of Firecracker), which is not needed. */
function checkDescriptors(fds: readonly number[]): void {
  const [first, second] = fds;
  if (first === undefined) throw new Refused('no descriptor came with it');
  if (fds.length > 2) {
    throw new Refused(
      `${fds.length} descriptors came with it: secret memory (guest_memfd), which has three, cannot be served yet`,
    );
  }
  if (!isUffd(first)) throw new Refused(`its descriptor is no userfaultfd but ${nameOf(first)}`);
  if (second !== undefined && !nameOf(second).startsWith('/memfd:')) {
    throw new Refused(`its second descriptor is no memory object but ${nameOf(second)}`);
  }
}

function nameOf(fd: number): string {
  return descriptorTarget(fd) ?? 'closed';
}

/** Takes the first descriptor out of `fds`. */
function adopt(fds: number[], handshake: Handshake): Uffd {
  const [fd = -1] = fds;
  const uffd = Uffd.fromFd(fd);
  fds.shift();
  try {
    if (!uffd.nonBlocking) throw new Refused('its userfaultfd blocks, and would stop the pager');
    const [{ address } = { address: 0n }] = handshake.regions;
    uffd.wake({ address, byteLength: handshake.pageSize }); // nobody waits; a context without a handshake refuses it
  } catch (error) {
    // It is not served: see whoever catches this.
    fds.push(uffd.intoFd());
    throw error instanceof Refused
      ? error
      : new Refused(`its userfaultfd cannot be used: ${reasonOf(error)}`, { cause: error });
  }
  return uffd;
}

/** Not by node:fs, which warns in Workers of descriptors that it has not opened. */
function closeAll(fds: readonly number[]): void {
  for (const fd of fds) native().descriptorClose(fd);
}
