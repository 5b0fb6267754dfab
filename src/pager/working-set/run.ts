/**
 * What a run does with the file of a working set: takes from it what is to be loaded ahead when it begins, and adds to it what was touched
 * when it ends. Any thread.
 */

import { resolve } from 'node:path';
import { WorkingSetError } from '../../errors/working-set-error.js';
import { checkWritable, readWorkingSet, writeWorkingSet } from './file.js';
import { mergeWorkingSets } from './merge.js';
import { distrust } from './trust.js';
import {
  DEFAULT_CAP,
  recordWorkingSet,
  type SnapshotFacts,
  type Touched,
  toPages,
  toRuns,
  type WorkingSet,
} from './working-set.js';

/** A working set that may be used, or why it may not. */
export interface OpenedWorkingSet {
  readonly set: WorkingSet | undefined;
  /** It is damaged, or of another snapshot: to be told. The run goes on without it, because it would only have made it faster. */
  readonly distrusted: WorkingSetError | undefined;
}

/** True of an error that says that there is no such file. */
export function isMissing(error: unknown): boolean {
  return error instanceof WorkingSetError && error.errno === 2; // ENOENT
}

/** True of an error that says that the file is cut off, was changed, or makes no sense. */
export function isDamaged(error: unknown): error is WorkingSetError {
  return error instanceof WorkingSetError && error.code === 'ERR_PAGEFAULT_WORKING_SET_DAMAGED';
}

/**
 * Reads the working set for this snapshot. Rejects with a WorkingSetError where there is no such file, or it is no working set: that
 * is a mistake of whoever named it, and it must not be overwritten.
 */
export async function openWorkingSet(path: string, snapshot: SnapshotFacts): Promise<OpenedWorkingSet> {
  try {
    const set = await readWorkingSet(path);
    const distrusted = distrust(set, snapshot);
    return { set: distrusted === undefined ? set : undefined, distrusted };
  } catch (error) {
    if (isDamaged(error)) return { set: undefined, distrusted: error };
    throw error;
  }
}

/**
 * Rejects with a WorkingSetError where no working set could be written: whoever wants to record should not hear of it when what was to be recorded is over. What
 * is there already must be a working set, of whatever snapshot and in whatever condition; that is not looked at where the caller reads the same file to replay it.
 */
export async function checkRecordable(path: string, replay?: string): Promise<void> {
  await checkWritable(path);
  if (replay !== undefined && resolve(replay) === resolve(path)) return;
  try {
    await readWorkingSet(path);
  } catch (error) {
    if (!isMissing(error) && !isDamaged(error)) throw error;
  }
}

/** The working set in the file where it may be added to; undefined where it is missing or distrusted, and is replaced. */
async function previous(path: string, snapshot: SnapshotFacts, formerly?: string): Promise<WorkingSet | undefined> {
  try {
    const set = await readWorkingSet(path);
    const moved = set.identity === formerly ? { ...set, identity: snapshot.identity } : set;
    return distrust(moved, snapshot) === undefined ? moved : undefined;
  } catch (error) {
    if (isMissing(error) || isDamaged(error)) return undefined;
    throw error;
  }
}

/** Those of the pages that were not touched. */
function untouched(touched: Touched, pages: Uint32Array = new Uint32Array(0)): Uint32Array {
  const known = new Set(touched.pages);
  return pages.filter((page) => !known.has(page));
}

/** The working set with these pages seen once more, at the times that are known of them. */
function seenAgain(set: WorkingSet, pages: Uint32Array): WorkingSet {
  const again = new Set(pages);
  const columns = toPages(set.runs);
  const seen = columns.seen.map((count, i) => count + (again.has(columns.pages[i] ?? 0) ? 1 : 0));
  return { ...set, runs: toRuns({ ...columns, seen }) };
}

/** These pages behind what was touched: nothing is known of when they were. */
function followedBy({ pages, atUs }: Touched, more: Uint32Array): Touched {
  const last = atUs.at(-1) ?? 0;
  const all = {
    pages: new Uint32Array(pages.length + more.length),
    atUs: new Float64Array(pages.length + more.length),
  };
  all.pages.set(pages);
  all.pages.set(more, pages.length);
  all.atUs.set(atUs);
  all.atUs.fill(last, pages.length);
  return all;
}

export interface SaveOptions {
  /**
   * Bytes of pages that the file holds at most.
   * @default 1 GiB
   */
  cap?: number;
  /** Pages that were loaded ahead. They count as seen, because nobody could see whether they were touched. */
  replayed?: Uint32Array;
  /** The identity that the snapshot had when the run began, where the run has changed it: what was recorded of that is added to. */
  formerly?: string;
}

/** One at a time for each file, so that the runs of one process do not lose each other. */
const saving = new Map<string, Promise<unknown>>();

async function save(
  path: string,
  snapshot: SnapshotFacts,
  touched: Touched,
  { cap = DEFAULT_CAP, replayed, formerly }: SaveOptions,
): Promise<WorkingSet> {
  const old = await previous(path, snapshot, formerly);
  const ahead = untouched(touched, replayed);
  const set =
    old === undefined
      ? recordWorkingSet(snapshot, followedBy(touched, ahead), cap)
      : mergeWorkingSets([seenAgain(old, ahead), recordWorkingSet(snapshot, touched, Infinity)], { cap });
  await writeWorkingSet(path, set);
  return set;
}

/**
 * Adds a run to the file: the union with what was there of this snapshot; a new file where there was none, or one that is damaged or of another
 * snapshot. Rejects with a WorkingSetError where it is something else, or cannot be written.
 */
export async function saveWorkingSet(
  path: string,
  snapshot: SnapshotFacts,
  touched: Touched,
  options: SaveOptions = {},
): Promise<WorkingSet> {
  const key = resolve(path);
  const before = saving.get(key) ?? Promise.resolve();
  const now = before.then(() => save(path, snapshot, touched, options));
  const settled = now.catch(() => {});
  saving.set(key, settled);
  try {
    return await now;
  } finally {
    if (saving.get(key) === settled) saving.delete(key);
  }
}
