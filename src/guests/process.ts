/**
 * A child process whose memory comes from here: its socket, its regions, its end. The pager's thread, which must not be one that the
 * child's pages depend on: whoever waits for the child while it waits for a page waits for ever.
 */

import type { ChildProcess } from 'node:child_process';
import { EventEmitter } from 'node:events';
import { close, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { isMainThread } from 'node:worker_threads';
import { GuestError } from '../errors/guest-error.js';
import { asError } from '../errors/reason.js';
import { SystemError } from '../errors/system-error.js';
import { describeEnd } from '../kernel/child-status.js';
import type { ChildStatus, PidFd, Uffd, UffdEvent, UnixSocket, Watch } from '../kernel/index.js';
import { ChildMemory } from './child-memory.js';
import { Counters, type GuestStats, readCounters } from './counters.js';
import type { Observe } from './events.js';
import { admit } from './handshake.js';
import type { Latencies } from './latency.js';
import {
  type DroppedMessage,
  decodeGuestMessage,
  encodeAck,
  encodeDrop,
  MESSAGE_BYTES,
  type RegionMessage,
} from './protocol.js';
import { GuestRegion, type RegionHost, type RegionParts, type ServedBy } from './region.js';
import { fitsThreads, type RegionThreads, Threads } from './region-threads.js';
import { Residency } from './residency.js';
import type { GuestSource } from './source.js';
import { checkReadahead, checkStrategy, type Policy, type Strategy } from './strategy.js';

/** What `spawnPaged` has checked and opened. */
export interface ProcessParts {
  readonly child: ChildProcess;
  readonly pidfd: PidFd;
  readonly socket: UnixSocket;
  readonly source: GuestSource;
  readonly policy: Policy;
  readonly faultTimeoutMs: number;
  readonly handshakeTimeoutMs: number;
  readonly onFailure: 'kill' | 'poison';
  /** Undefined: nothing was asked for. */
  readonly busyPollUs: number | undefined;
  readonly observe: Observe | undefined;
  readonly watchStatus: WatchStatus | undefined;
}

/** Calls back whenever the child exits, is killed, stopped or continued, until it is closed; an end it has reaped. */
export type WatchStatus = (pidfd: PidFd, changed: (status: ChildStatus) => void) => { close(): void };

/**
 * Milliseconds between the moments from which `process.hrtime` and `performance.now` count. One look would be wrong by as long as the first
 * call of either takes, many times what a fault does: the closest of several counts.
 */
const CLOCK_OFFSET = clockOffset();

function clockOffset(): number {
  let closest = Number.POSITIVE_INFINITY;
  let offset = 0;
  for (let look = 0; look < 10; look++) {
    const before = Number(process.hrtime.bigint());
    const now = performance.now();
    const after = Number(process.hrtime.bigint());
    if (after - before >= closest) continue;
    closest = after - before;
    offset = (before + after) / 2e6 - now;
  }
  return offset;
}

/** Microseconds, where nothing was asked for. */
const BUSY_POLL_US = 50;

/** How long a process whose memory is gone may take to be gone itself. */
const ENDING_MS = 5000;
/** A process that ends closes its socket a moment before its end is told. */
const PROBE_AFTER_MS = 50;

interface Dropping {
  resolve(): void;
  reject(error: Error): void;
}

/**
 * Events: 'region' (a {@link GuestRegion}) when the child hands memory over, 'status' (a ChildStatus) whenever it exits, is killed, stopped or
 * continued, 'pageerror' (an Error) when a page cannot be had, 'error' when the pager itself had to give up; the child is killed then.
 */
export class PagedProcess extends EventEmitter {
  readonly pid: number;
  /** The process as `node:child_process` knows it: its streams, its 'exit'. */
  readonly child: ChildProcess;
  /** Resolves with the first region; rejects when the child ends, or says nothing for `handshakeTimeoutMs`, before that. */
  readonly ready: Promise<void>;
  /** How the process ended. Its regions are closed then. */
  readonly exited: Promise<ChildStatus>;
  readonly #parts: ProcessParts;
  readonly #regions: GuestRegion[] = [];
  /** Of the socket, and then of each region. */
  readonly #watches: { close(): void }[] = [];
  readonly #statusWatch: { close(): void };
  readonly #counters = new Counters();
  readonly #residency: Residency;
  readonly #memory: ChildMemory;
  readonly #dropping = new Map<number, Dropping>();
  /** Once there was a region for them. */
  #threads: Threads | undefined;
  readonly #host: RegionHost;
  /** Node has taken the child's end, so that no zombie is left. */
  readonly #reaped: Promise<void>;
  #serial = 0;
  #over = false;
  /** The child has been killed because the pager cannot go on; nothing it says matters any more. */
  #gaveUp = false;
  /** The child has closed its end. */
  #deaf = false;
  #failure: Error | undefined;
  #isReady!: () => void;
  #notReady!: (error: Error) => void;
  #ended!: (status: ChildStatus) => void;
  #handshake: NodeJS.Timeout | undefined;
  #probing: NodeJS.Timeout | undefined;

  constructor(parts: ProcessParts) {
    super();
    this.#parts = parts;
    this.child = parts.child;
    this.pid = parts.pidfd.pid;
    this.ready = new Promise((resolve, reject) => {
      this.#isReady = resolve;
      this.#notReady = reject;
    });
    this.ready.catch(() => {}); // whoever does not wait for it hears of the end by `exited`
    this.exited = new Promise((resolve) => {
      this.#ended = resolve;
    });
    this.#residency = new Residency((error) => this.#broken(asError(error)));
    this.#memory = new ChildMemory(this.pid);
    this.#host = {
      pid: this.pid,
      source: parts.source,
      policy: parts.policy,
      counters: this.#counters,
      residency: this.#residency,
      faultTimeoutMs: parts.faultTimeoutMs,
      observe: parts.observe,
      drop: (address, byteLength) => this.#drop(address, byteLength),
      copyOut: (address, into) => this.#memory.read(address, into),
      guard: (job) => this.#guard(job),
      pageFailed: (_region, _page, error) => this.#pageFailed(error),
      broken: (error) => this.#broken(error),
      isStopped: () => this.#isStopped(),
      isAlive: () => !this.#over && parts.pidfd.isAlive(),
    };
    this.#applyPolicy();
    this.#watches.push(parts.socket.onReadable(() => this.#hear()));
    const watchStatus = parts.watchStatus ?? watchByPidfd;
    this.#statusWatch = watchStatus(parts.pidfd, (status) => this.#changed(status));
    const reaped = new Promise<void>((resolve) => {
      parts.child.once('exit', (code, signal) => {
        this.#exitedByNode(code, signal);
        resolve();
      });
    });
    // Whoever learns of the end elsewhere has taken it, and Node may never hear of it.
    this.#reaped = parts.watchStatus === undefined ? reaped : Promise.resolve();
    if (parts.handshakeTimeoutMs > 0) {
      this.#handshake = setTimeout(() => this.#silent(), parts.handshakeTimeoutMs);
    }
  }

  /** The memory that the child has handed over, in that order. */
  get regions(): readonly GuestRegion[] {
    return this.#regions;
  }

  /** Why the pager had to kill the child, if it had to. */
  get failure(): Error | undefined {
    return this.#failure;
  }

  get strategy(): Strategy {
    return this.#parts.policy.strategy;
  }

  /**
   * Takes effect with the next fault; `eager` brings what is missing at once, `budget` takes away what is too much. What threads of the core had answered, the event
   * loop does from the first `read-ahead` or `budget` on.
   */
  set strategy(value: Strategy) {
    const strategy = checkStrategy('strategy', value);
    if (strategy === 'budget' && this.#regions.some((region) => !region.over && !region.writeProtect)) {
      throw new GuestError(
        'ERR_PAGEFAULT_GUEST_HANDSHAKE',
        'strategy budget needs memory that can be write-protected, or writes would be lost; the kernel of this child cannot',
        { pid: this.pid },
      );
    }
    this.#parts.policy.strategy = strategy;
    if (!this.#mayUseThreads()) this.#takeBack();
    this.#applyPolicy();
    if (strategy !== 'eager') return;
    for (const region of this.#regions) region.loadAll().catch((error) => this.#broken(asError(error)));
  }

  /** Pages that come with each page touched, in strategy `read-ahead`. */
  set readahead(pages: number) {
    this.#parts.policy.readahead = checkReadahead('readahead', pages);
  }

  /**
   * Who answers the child's faults: threads of the core, whatever the event loop does, or the event loop. Which it is depends on the store and on what was asked for
   * (docs/guests/spawn-paged.md), and may differ from region to region: 'threads' where at least one is theirs.
   */
  get servedBy(): ServedBy {
    const regions = this.#regions;
    const theirs =
      regions.length === 0 ? this.#mayUseThreads() : regions.some(({ servedBy }) => servedBy === 'threads');
    return theirs ? 'threads' : 'event loop';
  }

  /** Service times in full, for percentiles over several processes. Of faults that threads have answered, each is known to within a factor of two, and their sum exactly. */
  get latencies(): Latencies {
    return this.#counted().service;
  }

  stats(): GuestStats {
    let resident = 0;
    let saved = 0;
    for (const region of this.#regions) {
      resident += region.residentBytes;
      saved += region.savedBytes;
    }
    return readCounters(this.#counted(), resident, saved);
  }

  #counted(): Counters {
    if (this.#threads === undefined) return this.#counters;
    const all = this.#counters.copy();
    for (const region of this.#regions) region.count(all);
    return all;
  }

  /** Sends a signal through the pidfd, which never reaches another process that got the same number. */
  kill(signal: NodeJS.Signals = 'SIGTERM'): void {
    if (!this.#over) this.#parts.pidfd.signal(signal);
  }

  /** Ends the child if it still runs (nobody could answer its faults), and waits for that. */
  async close(): Promise<void> {
    if (!this.#over) this.#killNow();
    await this.exited;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #applyPolicy(): void {
    const { policy } = this.#parts;
    this.#residency.limit = policy.strategy === 'budget' ? policy.residentBytes : Number.POSITIVE_INFINITY;
  }

  /* --- what the child says ------------------------------------------------------------------------------------------- */

  #hear(): void {
    if (this.#gaveUp) return;
    const { socket } = this.#parts;
    try {
      const state = this.#fill();
      for (;;) {
        const bytes = socket.read(MESSAGE_BYTES);
        if (bytes === undefined) break;
        const message = decodeGuestMessage(bytes);
        if (typeof message === 'string') throw this.#wrong(`sent a message that is none: ${message}`);
        if (message.kind === 'dropped') this.#dropped(message);
        else this.#region(message, socket.takeFd());
      }
      // Descriptors come with bytes: one may belong to a message that has not come in full.
      if (socket.fdCount > Math.min(1, socket.available)) throw this.#wrong('sent descriptors without messages');
      if (state === 'end') this.#hungUp();
    } catch (error) {
      this.#broken(asError(error));
    }
  }

  /** The child ends, which the pidfd tells; or it has become another program, and its memory is no more; or it is a hostile one. */
  #hungUp(): void {
    this.#watches[0]?.close();
    this.#probing = setTimeout(() => this.#probe(), PROBE_AFTER_MS);
  }

  #probe(): void {
    this.#deaf = true;
    for (const region of this.#regions) region.probe();
    for (const dropping of [...this.#dropping.values()]) dropping.reject(this.#wrong('has closed its connection'));
  }

  /** A child that ended without reading all it was told is at its end, too. */
  #fill(): 'data' | 'empty' | 'end' {
    try {
      return this.#parts.socket.fill();
    } catch (error) {
      if (error instanceof SystemError && error.errno === constants.errno.ECONNRESET) return 'end';
      throw error;
    }
  }

  #wrong(what: string): GuestError {
    return new GuestError('ERR_PAGEFAULT_GUEST_HANDSHAKE', `process ${this.pid} ${what}`, { pid: this.pid });
  }

  #region(message: RegionMessage, fd: number | undefined): void {
    if (fd === undefined) throw this.#wrong('handed over memory without a descriptor');
    const { policy, source } = this.#parts;
    const admitted = admit(message, fd, { regions: this.#regions, source, policy, pid: this.pid });
    if ('errno' in admitted) {
      this.#send(encodeAck(message.address, admitted.errno, message.serial));
      this.emit('refused', admitted.error);
      if (this.#regions.length === 0) this.#notReady(admitted.error);
      return;
    }
    const region = this.#newRegion(admitted.parts);
    this.#regions.push(region);
    clearTimeout(this.#handshake);
    const { address, byteLength, pageSize, memory } = region;
    this.#parts.observe?.({
      type: 'region',
      pid: this.pid,
      region: region.index,
      address,
      byteLength,
      pageSize,
      memory,
    });
    this.emit('region', region);
    region.answered = false;
    const go = (): void => {
      if (this.#over) return;
      this.#send(encodeAck(address, 0, message.serial));
      region.answered = true;
      this.#isReady();
    };
    if (policy.strategy !== 'eager') go();
    else {
      region
        .loadAll()
        .then(go)
        .catch((error) => this.#broken(asError(error)));
    }
  }

  /** Memory for the states of very many pages, or a place in the event loop, may be refused. */
  #newRegion(parts: RegionParts): GuestRegion {
    try {
      const threads = this.#threadsFor(parts);
      const region = new GuestRegion(parts, this.#host, threads);
      if (threads === undefined) this.#watches.push(this.#watch(region, parts.uffd));
      return region;
    } catch (error) {
      parts.uffd.close(); // the child waits for its answer, and touches nothing
      throw error;
    }
  }

  /** Nothing that was asked for needs a decision, or an event, of JavaScript at each fault. */
  #mayUseThreads(): boolean {
    const { source, policy, observe, onFailure, busyPollUs } = this.#parts;
    const { strategy, trackWrites } = policy;
    const wished = trackWrites || observe !== undefined || onFailure === 'poison' || busyPollUs !== undefined;
    return source.native !== undefined && !wished && (strategy === 'on-demand' || strategy === 'eager');
  }

  #threadsFor(parts: RegionParts): RegionThreads | undefined {
    const { source, pidfd, faultTimeoutMs } = this.#parts;
    if (source.native === undefined || !this.#mayUseThreads() || !fitsThreads(parts, source)) return undefined;
    this.#threads ??= Threads.open(source.native);
    return this.#threads?.take(parts, { pidfd, faultTimeoutMs });
  }

  #takeBack(): void {
    this.#guard(() => {
      for (const region of this.#regions) {
        const uffd = region.takeBack();
        if (uffd !== undefined) this.#watches.push(this.#watch(region, uffd));
      }
    });
  }

  #watch(region: GuestRegion, uffd: Uffd): Watch {
    const serve = (events: UffdEvent[], at: number): void => this.#guard(() => region.serve(events, at - CLOCK_OFFSET));
    return uffd.onEvents(serve, { busyPollUs: this.#parts.busyPollUs ?? BUSY_POLL_US }, (error) => this.#broken(error));
  }

  #guard(job: () => void): void {
    if (this.#gaveUp) return;
    try {
      job();
    } catch (error) {
      this.#broken(asError(error));
    }
  }

  /** A child that is ending does not read any more; that it ends, the pidfd tells. */
  #send(message: Uint8Array): void {
    try {
      if (this.#parts.socket.send(message) === message.byteLength) return;
    } catch (error) {
      if (error instanceof SystemError && error.errno === constants.errno.EPIPE) return;
      throw error;
    }
    throw this.#wrong('does not read what its pager says');
  }

  /* --- what the pager asks of the child --------------------------------------------------------------------------------- */

  #drop(address: bigint, byteLength: number): Promise<void> {
    if (this.#deaf) return Promise.reject(this.#wrong('has closed its connection'));
    this.#serial = (this.#serial + 1) >>> 0;
    const serial = this.#serial;
    return new Promise((resolve, reject) => {
      const late = (): void => {
        if (!this.#dropping.has(serial)) return;
        if (this.#isStopped()) timer = this.#inTime(late);
        else done(() => reject(this.#wrong(`did not take pages away within ${this.#parts.faultTimeoutMs} ms`)));
      };
      let timer = this.#inTime(late);
      const done = (then: () => void): void => {
        clearTimeout(timer);
        this.#dropping.delete(serial);
        then();
      };
      this.#dropping.set(serial, { resolve: () => done(resolve), reject: (error) => done(() => reject(error)) });
      this.#send(encodeDrop(address, byteLength, serial));
    });
  }

  /** After the deadline, and after what has arrived by then was heard: an event loop that was busy is told of the time first. */
  #inTime(late: () => void): NodeJS.Timeout {
    return setTimeout(() => setImmediate(late), this.#parts.faultTimeoutMs);
  }

  /** A child that was stopped (Ctrl-Z, a debugger) answers when it goes on. */
  #isStopped(): boolean {
    try {
      return /^State:\s+[Tt]/m.test(readFileSync(`/proc/${this.pid}/status`, 'latin1'));
    } catch {
      return false; // it has ended
    }
  }

  #dropped({ serial, status }: DroppedMessage): void {
    const dropping = this.#dropping.get(serial);
    if (dropping === undefined) throw this.#wrong('answered what it was not asked');
    if (status === 0) dropping.resolve();
    else dropping.reject(this.#wrong(`cannot take pages away (errno ${status})`));
  }

  /* --- ends --------------------------------------------------------------------------------------------------------------- */

  #pageFailed(error: Error): 'poison' | 'killed' {
    this.emit('pageerror', error);
    if (this.#parts.onFailure === 'poison') return 'poison';
    this.#failure ??= error;
    this.#killNow();
    return 'killed';
  }

  /** The pager cannot go on. A child whose faults nobody answers would hang; one whose descriptors are closed would read zeroes. */
  #broken(error: Error, isGone: boolean = this.#isGone(error)): void {
    if (this.#over || this.#gaveUp) return;
    if (isGone) {
      // It ended while something was done for it, and the pidfd is about to say so. Unless it does not.
      setTimeout(() => this.#broken(error, false), ENDING_MS).unref();
      return;
    }
    this.#gaveUp = true;
    this.#failure ??= error;
    this.#killNow();
    for (const watch of this.#watches) watch.close();
    this.#notReady(error);
    if (this.listenerCount('error') > 0) this.emit('error', error);
  }

  #isGone(error: Error): boolean {
    return (error instanceof SystemError && error.errno === constants.errno.ESRCH) || !this.#parts.pidfd.isAlive();
  }

  #silent(): void {
    const { handshakeTimeoutMs } = this.#parts;
    const error = new GuestError(
      'ERR_PAGEFAULT_TIMEOUT',
      `process ${this.pid} handed over no memory within ${handshakeTimeoutMs} ms, and was killed`,
      { pid: this.pid },
    );
    this.#broken(error);
  }

  #killNow(): void {
    try {
      this.#parts.pidfd.signal('SIGKILL');
    } catch {
      // It has ended already.
    }
  }

  #changed(status: ChildStatus): void {
    if (this.#over) return;
    if (status.state === 'exited' || status.state === 'killed') this.#finish(status);
    else this.#announce(status);
  }

  /** Where the pidfd could not tell the status, `node:child_process` does. */
  #exitedByNode(code: number | null, signal: NodeJS.Signals | null): void {
    const status: ChildStatus =
      signal === null ? { state: 'exited', code: code ?? 0 } : { state: 'killed', signal, coreDumped: false };
    setImmediate(() => this.#finish(status)); // the pidfd is looked at in this turn of the loop, if it was not already
  }

  #announce(status: ChildStatus): void {
    this.#parts.observe?.({ type: 'status', pid: this.pid, status });
    this.emit('status', status);
  }

  #finish(status: ChildStatus): void {
    if (this.#over) return;
    this.#hearThreads();
    this.#over = true;
    clearTimeout(this.#handshake);
    clearTimeout(this.#probing);
    for (const watch of [...this.#watches, this.#statusWatch]) watch.close();
    for (const region of this.#regions) region.end();
    for (const dropping of [...this.#dropping.values()]) dropping.reject(this.#wrong('has ended'));
    this.#memory.close();
    this.#closeSocket();
    this.#parts.pidfd.close();
    this.#announce(status);
    this.#notReady(this.#wrong(`${describeEnd(status)} before it handed over any memory`));
    const closed = this.#closeSource().catch(() => {}); // nobody reads from it any more
    Promise.all([closed, this.#reaped]).then(() => this.#ended(status));
  }

  /** They may have killed it, and said why: a look at their numbers waits for the turn that is under way. */
  #hearThreads(): void {
    this.#guard(() => {
      for (const region of this.#regions) region.count(new Counters());
      this.#threads?.hear();
    });
  }

  async #closeSource(): Promise<void> {
    try {
      await this.#threads?.close();
    } finally {
      await this.#parts.source.close();
    }
  }

  /** With whatever nobody took: a descriptor of a kind that a hostile child has chosen may take its time to close, so that is not waited for. */
  #closeSocket(): void {
    const { socket } = this.#parts;
    for (let fd = socket.takeFd(); fd !== undefined; fd = socket.takeFd()) close(fd, () => {});
    socket.close();
  }
}

/** SIGCHLD, which tells of stops, is told to the main thread only; an end is told anywhere. */
const watchByPidfd: WatchStatus = (pidfd, changed) => (isMainThread ? pidfd.onChange(changed) : pidfd.onExit(changed));
