/**
 * `pagefault paging` with threads and no child: Workers of this process read one memory, and the main thread brings its pages. The same region as
 * for a child, with another host: what the child would do on request, this thread does itself. Main thread, which therefore never
 * touches that memory.
 */

import { asError } from '../../errors/reason.js';
import { UnsupportedError } from '../../errors/unsupported-error.js';
import { Counters, type GuestStats, readCounters } from '../../guests/counters.js';
import type { Observe } from '../../guests/events.js';
import type { Latencies } from '../../guests/latency.js';
import { GuestRegion, type RegionHost } from '../../guests/region.js';
import { Residency } from '../../guests/residency.js';
import { type GuestSource, openGuestSource } from '../../guests/source.js';
import type { Policy, Strategy } from '../../guests/strategy.js';
import { Mapping, Memfd, readProcessMemory, Uffd } from '../../kernel/index.js';
import { CliError, EXIT } from '../exit.js';
import { observerOf, type Running } from './children.js';
import { DirtyPages } from './dirty.js';
import { Letters } from './letters.js';
import { linesOf } from './observer.js';
import type { Pager } from './paged.js';
import type { Plan } from './plan.js';
import { type Readers, startReaders } from './readers.js';

const FAULT_TIMEOUT_MS = 30_000;

/** Resolves when the threads have ended: with an error, if one read what it must not. */
export async function runThreads(running: Running): Promise<Error | undefined> {
  const { plan, pageSize, voice, speaker, explainer, switching, signal } = running;
  const letters = new Letters(plan.pages, pageSize);
  const dirty = new DirtyPages();
  const lines = linesOf({ letters, dirty, speaker, explainer, several: false, steps: ['poll-threads'] });
  explainer.explain(plan.memory, 'userfaultfd', 'uffdio-api', 'uffdio-register');
  const pager = await LocalPager.open(running, letters, observerOf(running, lines));
  let readers: Readers | undefined;
  const stop = (): void => readers?.stop();
  try {
    speaker.say({ type: 'mapped', pages: plan.pages, address: pager.address, byteLength: pager.byteLength });
    switching.add(pager);
    running.started({ pager, letters, dirty });
    if (plan.strategies[0] === 'eager') await pager.loadAll();
    const task = { pages: plan.pages, pageSize, passes: plan.passes, write: plan.write, pauseMs: plan.pauseMs };
    readers = startReaders(pager, plan.threads, { voice, explain: plan.explain, task });
    signal.addEventListener('abort', stop, { once: true });
    if (signal.aborted) stop();
    const wrong = await readers.done;
    return pager.trouble ?? (wrong === undefined ? undefined : mismatch(wrong));
  } finally {
    signal.removeEventListener('abort', stop);
    pager.close();
  }
}

/** Where the pages lie, by the name of `--memory`. */
function mapMemory(plan: Plan, pageSize: number): { mapping: Mapping; drop: 'dontneed' | 'remove' } {
  const byteLength = plan.pages * pageSize;
  switch (plan.memory) {
    case 'mmap':
      return { mapping: Mapping.anonymous(byteLength, { reserve: false }), drop: 'dontneed' };
    case 'malloc':
    case 'brk':
      return { mapping: Mapping.heap(byteLength, { from: plan.memory }), drop: 'dontneed' };
    case 'hugetlb':
      return { mapping: Mapping.anonymous(byteLength, { hugePages: pageSize }), drop: 'dontneed' };
    case 'shm': {
      const memfd = Memfd.create('pagefault-paging', { byteLength });
      try {
        return { mapping: Mapping.memfd(memfd, { shared: true }), drop: 'remove' };
      } finally {
        memfd.close(); // the mapping keeps the memory
      }
    }
  }
}

function mismatch(sentence: string): CliError {
  return new CliError(EXIT.mismatch, 'ERR_PAGEFAULT_MISMATCH', sentence);
}

/** The pager of this process's own threads. */
class LocalPager implements Pager {
  readonly pid: number = process.pid;
  readonly regions: readonly GuestRegion[];
  readonly address: bigint;
  readonly byteLength: number;
  /** Why the pages cannot be brought any more. */
  trouble: Error | undefined;
  readonly #region: GuestRegion;
  readonly #mapping: Mapping;
  readonly #policy: Policy;
  readonly #counters = new Counters();
  readonly #residency: Residency;
  readonly #atExit = (): void => this.#region.end();

  private constructor(parts: LocalParts) {
    const { plan, pageSize, mapping, uffd, drop, source, observe, writeProtect } = parts;
    this.address = mapping.address;
    this.byteLength = mapping.byteLength;
    this.#mapping = mapping;
    this.#policy = {
      strategy: plan.strategies[0],
      readahead: plan.readahead,
      residentBytes: plan.resident * pageSize,
      trackWrites: plan.write,
    };
    this.#residency = new Residency((error) => this.#broken(error));
    const host: RegionHost = {
      pid: this.pid,
      source,
      policy: this.#policy,
      counters: this.#counters,
      residency: this.#residency,
      faultTimeoutMs: FAULT_TIMEOUT_MS,
      observe,
      // Without EVENT_REMOVE: with it this call would wait for this very thread to read the event.
      drop: async (address, byteLength) => mapping.advise(drop, Number(address - mapping.address), byteLength),
      copyOut: (address, into) => {
        readProcessMemory(process.pid, address, into);
        return new Set(); // nobody gives up parts of it
      },
      guard: (job) => this.#guard(job),
      pageFailed: (_region, _page, error) => {
        this.#broken(error);
        return 'poison';
      },
      broken: (error) => this.#broken(error),
    };
    const { address, byteLength } = mapping;
    const memory = { index: 0, uffd, address, byteLength, pageSize, storeOffset: 0, memory: plan.memory, writeProtect };
    this.#region = new GuestRegion(memory, host);
    this.regions = [this.#region];
    this.#applyPolicy();
    observe?.({ type: 'region', pid: this.pid, region: 0, address, byteLength, pageSize, memory: plan.memory });
    uffd.onReadable(() => this.#region.look());
    // A thread that sleeps in a page would keep the process from exiting, whatever ends it.
    process.once('exit', this.#atExit);
  }

  static async open({ plan, pageSize }: Running, letters: Letters, observe: Observe | undefined): Promise<LocalPager> {
    const source = await openGuestSource(letters, FAULT_TIMEOUT_MS);
    const uffd = Uffd.open({ optionalFeatures: FEATURES });
    try {
      const { mapping, drop } = mapMemory(plan, pageSize);
      if (plan.memory !== 'hugetlb') mapping.advise('nohugepage');
      const writeProtect = canProtect(uffd, plan.memory);
      uffd.register(mapping, writeProtect ? ['missing', 'write-protect'] : ['missing']);
      if (plan.strategies[0] === 'budget' && !writeProtect) throw noBudget();
      return new LocalPager({ plan, pageSize, mapping, uffd, drop, source, observe, writeProtect });
    } catch (error) {
      uffd.close();
      throw error;
    }
  }

  #guard(job: () => void): void {
    try {
      job();
    } catch (error) {
      this.#broken(error);
    }
  }

  get strategy(): Strategy {
    return this.#policy.strategy;
  }

  set strategy(value: Strategy) {
    if (value === 'budget' && !this.#region.writeProtect) throw noBudget();
    this.#policy.strategy = value;
    this.#applyPolicy();
    if (value === 'eager') this.loadAll().catch((error) => this.#broken(error));
  }

  get latencies(): Latencies {
    return this.#counters.service;
  }

  stats(): GuestStats {
    const { pages, pageSize } = this.#region;
    return readCounters(this.#counters, pages.resident * pageSize, pages.saved.size * pageSize);
  }

  async loadAll(): Promise<void> {
    await this.#region.loadAll();
  }

  /** When the threads have ended, and only then: nobody may be asleep in a page, or touch one. */
  close(): void {
    process.off('exit', this.#atExit);
    this.#region.end();
    this.#mapping.unmap();
  }

  #applyPolicy(): void {
    const { strategy, residentBytes } = this.#policy;
    this.#residency.limit = strategy === 'budget' ? residentBytes : Number.POSITIVE_INFINITY;
  }

  #broken(error: unknown): void {
    this.trouble ??= asError(error);
  }
}

interface LocalParts {
  readonly plan: Plan;
  readonly pageSize: number;
  readonly mapping: Mapping;
  readonly uffd: Uffd;
  readonly drop: 'dontneed' | 'remove';
  readonly source: GuestSource;
  readonly observe: Observe | undefined;
  readonly writeProtect: boolean;
}

const FEATURES = ['thread-id', 'exact-address', 'pagefault-flag-wp', 'wp-hugetlbfs-shmem', 'wp-unpopulated'] as const;

function noBudget(): UnsupportedError {
  const sentence =
    'strategy budget needs memory that can be write-protected, or writes would be lost; this kernel cannot';
  return new UnsupportedError(sentence, undefined, ['pagefault-flag-wp']);
}

function canProtect(uffd: Uffd, memory: Plan['memory']): boolean {
  const shared = memory === 'shm' || memory === 'hugetlb';
  return uffd.features.has(shared ? 'wp-hugetlbfs-shmem' : 'pagefault-flag-wp');
}
