/** `pagefault/guests`: pages for other processes. */

export { Counters, type GuestStats } from './counters.js';
export {
  Guest,
  GuestEngine,
  type GuestEngineOptions,
  type GuestNumbers,
  type GuestParts,
  type MemoryRegion,
  type ReplayOptions,
  Snapshot,
  type SnapshotOptions,
  type SnapshotSource,
} from './engine/index.js';
export type { Observe, PageEvent, PagingEvent } from './events.js';
export {
  type FirecrackerEvents,
  FirecrackerServer,
  type ServeFirecrackerOptions,
  serveFirecracker,
} from './firecracker/index.js';
export { Latencies, type Percentiles } from './latency.js';
export { type PageClientInfo, PageServer, type PageServerEvents, type PageServerStats } from './page-server.js';
export {
  isPaged,
  type PagedMemory,
  type PagedMemoryKind,
  type PagedMemoryOptions,
  pagedMemory,
} from './paged-memory.js';
export { Pager, type PagerStats } from './pager.js';
export { bootCritical, type PagerOptions } from './pager-options.js';
export { GUEST_PAGE } from './pages.js';
export { PagedProcess, type WatchStatus } from './process.js';
export type { GuestMemoryKind } from './protocol.js';
export { GuestRegion, type RegionHost, type RegionParts, type ServedBy } from './region.js';
export { Residency } from './residency.js';
export { type ServePagesOptions, servePages } from './serve-pages.js';
export { type GuestSource, type GuestStore, openGuestSource } from './source.js';
export { type SpawnPagedOptions, spawnPaged } from './spawn.js';
export { type Policy, STRATEGIES, type Strategy } from './strategy.js';
export {
  type Described,
  describeGuest,
  type GuestDescriptors,
  type HeldGuest,
  type Orphan,
  readDescription,
  Supervisor,
  type SupervisorEvents,
  type SupervisorOptions,
} from './supervisor/index.js';
export {
  distrust,
  type MergeOptions,
  mergeWorkingSets,
  type PageRuns,
  readWorkingSet,
  recordWorkingSet,
  type SnapshotFacts,
  type Touched,
  type WorkingSet,
  writeWorkingSet,
} from './working-set/index.js';
