/**
 * The working set of VMs restored from one snapshot: what is loaded ahead into each that comes, and what each has touched when it goes. The server's
 * thread.
 */

import { constants } from 'node:os';
import { resolve } from 'node:path';
import { WorkingSetError } from '../../errors/working-set-error.js';
import { checkRecordable } from '../../pager/working-set/index.js';
import type { Guest, Snapshot } from '../engine/index.js';
import {
  distrust,
  readWorkingSet,
  replayPages,
  type SnapshotFacts,
  saveWorkingSet,
  type WorkingSet,
} from '../working-set/index.js';

const { ENOENT } = constants.errno;

export interface WorkingSetFiles {
  readonly record: string | undefined;
  readonly replay: string | undefined;
  /** Bytes of pages; undefined: as much as working sets have by themselves. */
  readonly capBytes: number | undefined;
}

export class WorkingSets {
  readonly #files: WorkingSetFiles;
  readonly #snapshot: Snapshot;
  readonly #warn: (error: Error) => void;
  /** What `replay` has. */
  #set: WorkingSet | undefined;
  /** Page sizes that it is not for, so that this is told once. */
  readonly #told = new Set<number>();
  /** What was loaded ahead into whom. */
  readonly #replayed = new WeakMap<Guest, Uint32Array>();
  /** A VM is a run, and counts once. */
  readonly #recorded = new WeakSet<Guest>();

  private constructor(files: WorkingSetFiles, snapshot: Snapshot, warn: (error: Error) => void) {
    this.#files = files;
    this.#snapshot = snapshot;
    this.#warn = warn;
  }

  /**
   * Rejects where `replay` is not there or is no working set; one that is damaged, or of another snapshot, is only warned of. What is to be recorded, too,
   * need not be there yet, but its folder.
   */
  static async open(files: WorkingSetFiles, snapshot: Snapshot, warn: (error: Error) => void): Promise<WorkingSets> {
    const sets = new WorkingSets(files, snapshot, warn);
    await sets.#read();
    return sets;
  }

  async #read(): Promise<void> {
    const { replay, record } = this.#files;
    if (record !== undefined) await checkRecordable(record, replay);
    if (replay === undefined) return;
    try {
      const set = await readWorkingSet(replay);
      const foreign = distrust(set, this.#facts(set.pageSize));
      if (foreign === undefined) this.#set = set;
      else this.#warn(foreign);
    } catch (error) {
      if (!(error instanceof WorkingSetError)) throw error;
      const begins = error.errno === ENOENT && record !== undefined && resolve(record) === resolve(replay);
      if (error.code === 'ERR_PAGEFAULT_WORKING_SET_DAMAGED') this.#warn(error);
      else if (!begins) throw error;
    }
  }

  /** The pages to load ahead into a VM; undefined: none. */
  toReplay(guest: Guest): Uint32Array | undefined {
    const set = this.#set;
    if (set === undefined) return undefined;
    const foreign = distrust(set, this.#facts(guest.pageSize));
    if (foreign !== undefined) {
      if (!this.#told.has(guest.pageSize)) this.#warn(foreign);
      this.#told.add(guest.pageSize);
      return undefined;
    }
    const { capBytes } = this.#files;
    const pages = replayPages(set, capBytes === undefined ? {} : { cap: capBytes });
    this.#replayed.set(guest, pages);
    return pages;
  }

  /** Adds what a VM has touched so far to the file; once for each. */
  async record(guest: Guest): Promise<void> {
    const { record, replay, capBytes } = this.#files;
    if (record === undefined || this.#recorded.has(guest)) return;
    this.#recorded.add(guest);
    const replayed = this.#replayed.get(guest);
    const options = {
      ...(capBytes === undefined ? {} : { cap: capBytes }),
      ...(replayed === undefined ? {} : { replayed }),
    };
    const set = await saveWorkingSet(record, this.#facts(guest.pageSize), guest.trace(), options);
    if (replay !== undefined && resolve(record) === resolve(replay)) this.#set = set;
  }

  #facts(pageSize: number): SnapshotFacts {
    const { identity, byteLength } = this.#snapshot;
    return { identity, byteLength, pageSize };
  }
}
