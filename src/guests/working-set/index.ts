/** Working sets of guests: those of segments are the same (src/pager/working-set). */

export {
  distrust,
  type MergeOptions,
  mergeWorkingSets,
  type OpenedWorkingSet,
  openWorkingSet,
  type PageRuns,
  type ReplayChoice,
  readWorkingSet,
  recordWorkingSet,
  replayPages,
  type SaveOptions,
  type SnapshotFacts,
  saveWorkingSet,
  type Touched,
  type WorkingSet,
  writeWorkingSet,
} from '../../pager/working-set/index.js';
