/** Segments. */

export type { Backend } from './backend.js';
export { Budget, type BudgetStats, budget } from './budget.js';
export { HandlerLostEvent, PageErrorEvent, type Stall, StallEvent } from './events.js';
export type { SegmentHandle } from './handle.js';
export type { LoadOptions, PinOptions } from './jobs.js';
export { map } from './map.js';
export { open } from './open.js';
export type { MapOptions } from './options.js';
export type { Pin } from './pin.js';
export type { CloseOptions, Segment } from './segment.js';
export { SharedMemory, sharedMemory } from './shared-memory.js';
export type { LatencyStats, SegmentStats } from './stats.js';
export type { SegmentReadStreamOptions, SegmentWriteStreamOptions } from './streams.js';
export type { Descriptor, TransferOptions } from './transfer.js';
export type { TypedArrayConstructor } from './view.js';
export type { WasmMemory } from './wasm-memory.js';
export type { LoadedAhead, SegmentWorkingSet } from './working-set.js';
export type { WorkingSetOptions } from './working-set-options.js';
