/** The engine that pages other processes: threads of the core answer faults, whatever JavaScript does; JavaScript holds policy, events and statistics. */

export { Guest, type GuestArea, type GuestNumbers, type MemoryRegion, type ReplayOptions } from './guest.js';
export { GuestEngine, type GuestEngineOptions, type GuestParts } from './guest-engine.js';
export { Snapshot, type SnapshotOptions, type SnapshotSource } from './snapshot.js';
