/** `pagefault/guests`: pages for other processes. */

export { Counters, type GuestStats } from './counters.js';
export type { Observe, PageEvent, PagingEvent } from './events.js';
export { Latencies, type Percentiles } from './latency.js';
export {
  isPaged,
  type PagedMemory,
  type PagedMemoryKind,
  type PagedMemoryOptions,
  pagedMemory,
} from './paged-memory.js';
export { GUEST_PAGE } from './pages.js';
export { PagedProcess, type WatchStatus } from './process.js';
export type { GuestMemoryKind } from './protocol.js';
export { GuestRegion, type RegionHost, type RegionParts } from './region.js';
export { Residency } from './residency.js';
export { type GuestSource, type GuestStore, openGuestSource } from './source.js';
export { type SpawnPagedOptions, spawnPaged } from './spawn.js';
export { type Policy, STRATEGIES, type Strategy } from './strategy.js';
