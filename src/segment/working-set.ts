/**
 * The working set of a segment: pages of earlier runs are loaded ahead by a thread of the core, behind what is touched, and the order in which this run
 * touches pages is noted, and added to the file. Belongs to the thread that mapped the segment.
 */

import { ClosedError } from '../errors/closed-error.js';
import { fromNative } from '../errors/from-native.js';
import { asError } from '../errors/reason.js';
import type { WorkingSetError } from '../errors/working-set-error.js';
import type { NativeFailure } from '../native/binding.js';
import {
  checkRecordable,
  distrust,
  isDamaged,
  isMissing,
  pageCountOf,
  pagesWithin,
  pairsOf,
  readWorkingSet,
  replayPages,
  type SnapshotFacts,
  saveWorkingSet,
  type Touched,
  type WorkingSet,
} from '../pager/working-set/index.js';
import type { StoreRef } from '../stores/ref.js';
import { failureError, type Region } from './region.js';
import { storeIdentity } from './store-identity.js';
import type { CheckedWorkingSet } from './working-set-options.js';

/** The longest that a timer takes. */
const LONG_MS = 2 ** 31 - 1;

/** What became of loading ahead. */
export interface LoadedAhead {
  /** Pages that were to be loaded ahead. */
  readonly wanted: number;
  /** How many of them it came to, from the first on; those that were there already and those that could not be had among them. The others had no room in the budget, or `error` says why. */
  readonly reached: number;
  /** Why it ended early. Nothing is wrong with the segment. */
  readonly error: Error | undefined;
}

/** What was read before there was a segment. */
export interface PreparedWorkingSet extends Found {
  readonly options: CheckedWorkingSet;
}

interface Found {
  readonly set: WorkingSet | undefined;
  /** It is damaged. */
  readonly distrusted: WorkingSetError | undefined;
}

const NOTHING: Found = { set: undefined, distrusted: undefined };

/** Reads the file to replay. Rejects where it is missing and must not be, or is no working set, and where the file to record could not be written. */
export async function prepareWorkingSet(options: CheckedWorkingSet): Promise<PreparedWorkingSet> {
  const { record, replay } = options;
  if (record !== undefined) await checkRecordable(record, replay);
  const found = replay === undefined ? NOTHING : await look(replay, replay === record);
  return { options, ...found };
}

async function look(path: string, mayBeMissing: boolean): Promise<Found> {
  try {
    return { set: await readWorkingSet(path), distrusted: undefined };
  } catch (error) {
    if (mayBeMissing && isMissing(error)) return NOTHING;
    if (isDamaged(error)) return { set: undefined, distrusted: error };
    throw error;
  }
}

export interface WorkingSetParts {
  region: Region;
  prepared: PreparedWorkingSet;
  /** Of the store, as it was when it was opened. */
  identity: string;
  store: StoreRef;
  /** Where the segment begins in the store. */
  offset: number;
}

export class SegmentWorkingSet {
  /** Why the file to replay was not used: it is of another snapshot, or damaged. Undefined where it was, or there was none. */
  readonly distrusted: WorkingSetError | undefined;
  readonly #parts: WorkingSetParts;
  #replayed: Uint32Array<ArrayBufferLike> = new Uint32Array(0);
  #saved: Promise<WorkingSet | undefined> | undefined;
  readonly #loadedAhead: Promise<LoadedAhead>;

  /** To be made in the turn in which the region was, before anybody can touch it. */
  constructor(parts: WorkingSetParts) {
    const { region, prepared } = parts;
    const { options } = prepared;
    this.#parts = parts;
    this.distrusted = prepared.distrusted ?? (prepared.set && distrust(prepared.set, this.#facts(parts.identity)));
    if (this.distrusted !== undefined) {
      const { code, message } = this.distrusted;
      process.emitWarning(`segment "${region.name}": ${message}`, { type: 'PagefaultWarning', code });
    }
    if (options.record !== undefined) {
      const most = Math.min(pagesWithin(options.cap, region.pageSize), pageCountOf(region));
      region.call((core, id) => core.regionRecord(id, most));
    }
    const trusted = this.distrusted === undefined ? prepared.set : undefined;
    this.#loadedAhead = trusted === undefined ? nothingAhead() : this.#replay(trusted);
  }

  /**
   * Resolves when everything has been loaded ahead, or when that has ended early. Never rejects. Loading ahead does not keep the process alive; who asks
   * for this does, until it is known.
   */
  get loadedAhead(): Promise<LoadedAhead> {
    const asked = setInterval(() => {}, LONG_MS);
    return this.#loadedAhead.finally(() => clearInterval(asked));
  }

  /**
   * Adds what was touched so far to the file, once: later touches are not part of it. `close` does it where nobody has. Resolves to what is
   * in the file then; undefined where there is nothing to record. Rejects with a WorkingSetError where the file cannot be written.
   *
   * @example
   * await segment.workingSet?.save(); // all that was needed to start
   */
  async save(): Promise<WorkingSet | undefined> {
    this.#saved ??= this.#write(this.#touched());
    return await this.#saved;
  }

  /** What was touched, for `saveTouched`; undefined where it is not to be saved, or another thread has ended the segment. @internal */
  lastTouched(): Touched | undefined {
    if (this.#saved !== undefined) return undefined;
    try {
      return this.#touched();
    } catch (error) {
      if (error instanceof ClosedError) return undefined;
      throw error;
    }
  }

  #touched(): Touched | undefined {
    const { region, prepared } = this.#parts;
    if (prepared.options.record === undefined) return undefined;
    const { count, pages, atUs } = region.call((core, id) => core.regionTouched(id));
    return { pages: pages.subarray(0, count), atUs: atUs.subarray(0, count) };
  }

  /** `save` for a segment that is closed meanwhile. @internal */
  async saveTouched(touched: Touched | undefined): Promise<void> {
    this.#saved ??= this.#write(touched);
    await this.#saved;
  }

  async #write(touched: Touched | undefined): Promise<WorkingSet | undefined> {
    const { region, prepared, store, offset, identity } = this.#parts;
    const { record, cap } = prepared.options;
    if (touched === undefined || record === undefined) return undefined;
    const now = region.writable ? await storeIdentity(store, offset) : identity; // what was flushed has changed it
    const replayed = this.#replayed;
    return await saveWorkingSet(record, this.#facts(now), touched, { cap, replayed, formerly: identity });
  }

  #facts(identity: string): SnapshotFacts {
    const { byteLength, pageSize } = this.#parts.region;
    return { identity, byteLength, pageSize };
  }

  #replay(set: WorkingSet): Promise<LoadedAhead> {
    const { region, prepared } = this.#parts;
    const pages = replayPages(set, { cap: prepared.options.cap });
    const pairs = pairsOf(pages);
    this.#replayed = pages;
    if (pages.length === 0) return nothingAhead();
    return new Promise((resolve) => {
      const done = (failure: NativeFailure | null, bytes: number): void => {
        const reached = bytes / region.pageSize;
        this.#replayed = pages.subarray(0, reached);
        const error = failure === null ? undefined : failureError({ ...failure, region: failure.region || region.id });
        resolve({ wanted: pages.length, reached, error });
      };
      try {
        region.call((core, id) => core.regionReplay(id, new Uint8Array(pairs.buffer), done, undefined));
      } catch (error) {
        resolve({ wanted: pages.length, reached: 0, error: asError(fromNative(error, region)) });
      }
    });
  }
}

async function nothingAhead(): Promise<LoadedAhead> {
  return { wanted: 0, reached: 0, error: undefined };
}
