/** Working sets: which pages a run touched, kept in a file, and loaded ahead the next time. */

export { readWorkingSet, writeWorkingSet } from './file.js';
export { decodeWorkingSet, encodeWorkingSet } from './format.js';
export { type MergeOptions, mergeWorkingSets } from './merge.js';
export { pairsOf, type ReplayChoice, replayPages } from './replay.js';
export {
  checkRecordable,
  isDamaged,
  isMissing,
  type OpenedWorkingSet,
  openWorkingSet,
  type SaveOptions,
  saveWorkingSet,
} from './run.js';
export { distrust } from './trust.js';
export {
  countRunPages,
  DEFAULT_CAP,
  type PageRuns,
  pageCountOf,
  pagesWithin,
  recordWorkingSet,
  type SeenPages,
  type SnapshotFacts,
  type Touched,
  toPages,
  toRuns,
  type WorkingSet,
} from './working-set.js';
