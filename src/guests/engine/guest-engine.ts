/** Pages for other processes: takes userfaultfds over, and hears what threads of the core tell. The thread that made it. */

import { availableParallelism, constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../../errors/argument.js';
import { errnoNames } from '../../errors/from-native.js';
import { GuestError } from '../../errors/guest-error.js';
import { PagefaultError } from '../../errors/pagefault-error.js';
import { systemError } from '../../kernel/descriptor.js';
import { Memfd, type PidFd, type Uffd, type Watch, watch } from '../../kernel/index.js';
import { PEER_EVENT, PEER_FLAG, statesBytes } from '../../native/kernel/peers.js';
import { native, systemPageSize } from '../../native/load.js';
import { checkKeys } from '../../options/keys.js';
import { guestPageError } from './failure.js';
import { Guest, type MemoryRegion } from './guest.js';
import type { Snapshot } from './snapshot.js';

export interface GuestEngineOptions {
  /** Threads that answer faults, 1 to 16; all engines of a process share the largest number. @default the processors, at most 4 */
  threads?: number;
}

export interface GuestParts {
  /** Taken over. */
  uffd: Uffd;
  /** Taken over. */
  pidfd: PidFd;
  regions: readonly MemoryRegion[];
  /** Bytes: the system's page size, or that of the huge pages that the memory is made of. */
  pageSize: number;
  snapshot: Snapshot;
  name: string;
  /** A page that cannot be had: the process is killed, or its thread waits until `retry`. Never zeroes. @default 'kill' */
  onFailure?: 'kill' | 'park';
  /** How long a thread may wait for a page, also where others are before it. That of the snapshot's store holds, too. @default 30000 */
  faultTimeoutMs?: number;
  /**
   * What is touched where the process has given memory back: zeroes, or the snapshot once more, as with a private mapping of a file. Then a process that has unmapped all
   * of it is told of as 'gone', too. @default 'zeroes'
   */
  givenBack?: 'zeroes' | 'snapshot';
  /** Keeps the order of first touch. @default false */
  record?: boolean;
  /** States that another pager left. Taken over. */
  states?: Memfd;
  /** The pager that had it is gone: threads that wait ask again. @default false */
  adopted?: boolean;
  /** Somebody else keeps it when this process ends, so that it is not killed then, nor when the engine is closed. @default false */
  supervised?: boolean;
}

const KNOWN: readonly (keyof GuestParts)[] = [
  'uffd',
  'pidfd',
  'regions',
  'pageSize',
  'snapshot',
  'name',
  'onFailure',
  'faultTimeoutMs',
  'givenBack',
  'record',
  'states',
  'adopted',
  'supervised',
];
const WHO = 'GuestEngine.add()';
const NOTES = 32;

function checkParts(parts: GuestParts): void {
  checkKeys(WHO, parts, KNOWN);
  const { pageSize, regions, onFailure = 'kill', givenBack = 'zeroes' } = parts;
  if (!Number.isInteger(Math.log2(pageSize)) || pageSize < systemPageSize() || pageSize > 2 ** 30) {
    throw outOfRange(
      `${WHO}: pageSize must be a power of two from ${systemPageSize()} to 2^30, not ${shown(pageSize)}`,
    );
  }
  if (onFailure !== 'kill' && onFailure !== 'park') {
    throw wrongType(`${WHO}: onFailure must be 'kill' or 'park', not ${shown(onFailure)}`);
  }
  if (givenBack !== 'zeroes' && givenBack !== 'snapshot') {
    throw wrongType(`${WHO}: givenBack must be 'zeroes' or 'snapshot', not ${shown(givenBack)}`);
  }
  if (regions.length === 0) throw outOfRange(`${WHO}: there is no region`);
  const sorted = [...regions].sort((a, b) => (a.address < b.address ? -1 : 1));
  for (const [i, { address, byteLength, offset }] of sorted.entries()) {
    const unit = BigInt(pageSize);
    if (
      byteLength <= 0 ||
      address % unit !== 0n ||
      byteLength % pageSize !== 0 ||
      offset % pageSize !== 0 ||
      offset < 0
    ) {
      const region = `0x${address.toString(16)}, ${byteLength} bytes, at offset ${offset}`;
      throw outOfRange(`${WHO}: region ${region} is not made of whole pages of ${pageSize} bytes`);
    }
    const next = sorted[i + 1];
    if (next !== undefined && address + BigInt(byteLength) > next.address) {
      throw outOfRange(`${WHO}: the regions at 0x${address.toString(16)} and 0x${next.address.toString(16)} overlap`);
    }
  }
}

/** Of what an engine begins with only threads are refused with EAGAIN; descriptors, the first of which is an eventfd, and memory are not. */
function cannotStart(errno: number): PagefaultError {
  const sentence = 'new GuestEngine(): the engine for guests cannot be started';
  if (errno !== constants.errno.EAGAIN) return systemError(sentence, errno, 'eventfd');
  const { code, description } = errnoNames(errno);
  const why = `no thread can be had (pthread_create: ${code}, ${description})`;
  return new PagefaultError('ERR_PAGEFAULT_SPAWN', `${sentence}: ${why}`, { errno, syscall: 'pthread_create' });
}

export class GuestEngine {
  readonly #owner: number;
  readonly #watch: Watch;
  readonly #guests = new Map<number, Guest>();
  readonly #snapshots = new WeakMap<Guest, Snapshot>();
  readonly #notes = new Float64Array(5 * NOTES);
  readonly #heard: Float64Array[] = [];
  readonly #atExit = (): void => this.#stop();
  #closed = false;

  /**
   * @throws {PagefaultError} `ERR_PAGEFAULT_SPAWN`: no thread can be had (`RLIMIT_NPROC`, `pids.max`)
   * @throws {SystemError} no descriptor or no memory is left; EMFILE: or this process has 64 engines
   */
  constructor(options: GuestEngineOptions = {}) {
    checkKeys('new GuestEngine()', options, ['threads']);
    const { threads = Math.min(4, availableParallelism()) } = options;
    if (!Number.isInteger(threads) || threads < 1 || threads > 16) {
      throw outOfRange(`new GuestEngine(): threads must be a whole number from 1 to 16, not ${shown(threads)}`);
    }
    const out = new Int32Array(2);
    const result = native().peersOpen(threads, out);
    if (result < 0) throw cannotStart(-result);
    const [owner = 0, fd = -1] = out;
    this.#owner = owner;
    this.#watch = watch(fd, () => this.hear(), { keepAlive: false });
    process.once('exit', this.#atExit);
  }

  get guests(): ReadonlySet<Guest> {
    return new Set(this.#guests.values());
  }

  /**
   * Pages the memory of a process from here on, until it ends or the guest is closed.
   * @throws {RangeError} regions that overlap or are no whole pages. On failure nothing was taken over.
   */
  add(parts: GuestParts): Guest {
    if (this.#closed) throw new GuestError('ERR_PAGEFAULT_GUEST_GONE', 'the engine is closed');
    checkParts(parts);
    const { uffd, pidfd, regions, pageSize, name, adopted = false, supervised = false } = parts;
    const { pid } = pidfd;
    const pages = regions.reduce((sum, { byteLength }) => sum + byteLength / pageSize, 0);
    const given = parts.states;
    if (given !== undefined && given.byteLength < pages) {
      throw outOfRange(`${WHO}: the states have ${given.byteLength} bytes for ${pages} pages`);
    }
    const [uffdFd, pidfdFd, snapshot] = [uffd.fd, pidfd.fd, parts.snapshot.id]; // before anything is made: each may be closed
    const states = given ?? Memfd.create('pagefault states', { byteLength: statesBytes(pages) });
    const flags =
      (parts.onFailure === 'park' ? PEER_FLAG.park : 0) +
      (parts.record === true ? PEER_FLAG.record : 0) +
      (adopted ? PEER_FLAG.adopted : 0) +
      (supervised ? PEER_FLAG.supervised : 0) +
      (parts.givenBack === 'snapshot' ? PEER_FLAG.again : 0);
    const numbers = Int32Array.of(uffdFd, pidfdFd, states.fd, Math.log2(pageSize), flags, regions.length);
    const areas = BigUint64Array.from(
      regions.flatMap(({ address, byteLength, offset }) => [address, BigInt(byteLength), BigInt(offset)]),
    );
    const out = new Float64Array(1);
    const result = native().peerAdd(this.#owner, numbers, areas, snapshot, parts.faultTimeoutMs ?? 30_000, out);
    if (result < 0) {
      if (given === undefined) states.close();
      throw systemError(`the memory of process ${pid} cannot be paged`, -result, 'epoll_ctl');
    }
    uffd.intoFd();
    pidfd.intoFd(); // both are the core's now
    const [id = 0] = out;
    const forget = (): void => void this.#guests.delete(id);
    const hear = (): void => this.hear();
    const guest = new Guest({ id, pid, name, regions, pageSize, states, supervised, hear, forget });
    this.#guests.set(id, guest);
    this.#snapshots.set(guest, parts.snapshot);
    return guest;
  }

  /** Kills the processes that are still paged, but those that are supervised: nobody would answer them. Idempotent. */
  async close(): Promise<void> {
    this.#stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #stop(): void {
    if (this.#closed) return;
    this.#closed = true;
    process.removeListener('exit', this.#atExit);
    for (const guest of [...this.#guests.values()]) guest.left();
    this.#watch.close();
    native().peersClose(this.#owner);
  }

  /**
   * What the threads have told so far, now instead of in the next turn of the loop. Also called while a note is being told, by a listener that closes a guest: then the
   * rest is told in there, still in order. @internal
   */
  hear(): void {
    let count = NOTES;
    while (count === NOTES && !this.#closed) {
      count = native().peersNotes(this.#owner, this.#notes);
      for (let i = 0; i < count; i++) this.#heard.push(this.#notes.slice(i * 5, i * 5 + 5));
      for (let note = this.#heard.shift(); note !== undefined; note = this.#heard.shift()) this.#tell(note);
    }
  }

  /** What a listener throws does not keep the others from being told: nothing else would make the core tell again. */
  #tell(note: Float64Array): void {
    try {
      this.#note(note);
    } catch (error) {
      setImmediate(() => this.hear());
      throw error;
    }
  }

  #note([peer = 0, event = 0, offset = 0, code = 0, errno = 0]: Float64Array): void {
    const guest = this.#guests.get(peer);
    if (guest === undefined) return; // closed meanwhile
    switch (PEER_EVENT[event]) {
      case 'page-failed':
        guest.emit('pageerror', this.#pageError(guest, offset, code, errno), { offset });
        break;
      case 'refused':
        guest.emit('pageerror', this.#refused(guest, offset), { offset: undefined });
        break;
      case 'replayed':
        guest.replayed();
        break;
      default:
        guest.gone();
    }
  }

  #pageError(guest: Guest, offset: number, code: number, errno: number): GuestError {
    return guestPageError(guest, this.#snapshots.get(guest), { offset, why: native().peerCode(code), errno });
  }

  #refused({ name, pid }: Guest, what: number): GuestError {
    return new GuestError(
      'ERR_PAGEFAULT_GUEST_HANDSHAKE',
      `guest "${name}" (process ${pid}) was killed, because it uses its memory in a way that cannot be followed (0x${what.toString(16)}): ` +
        'it forked with it, or faults outside of the regions that it named',
      { pid },
    );
  }
}
