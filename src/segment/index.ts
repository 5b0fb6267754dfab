/** Segments. */

export type { Backend } from './backend.js';
export { Budget, type BudgetStats, budget } from './budget.js';
export { HandlerLostEvent, PageErrorEvent } from './events.js';
export type { SegmentHandle } from './handle.js';
export type { LoadOptions, PinOptions } from './jobs.js';
export { map } from './map.js';
export { open } from './open.js';
export type { MapOptions } from './options.js';
export type { Pin } from './pin.js';
export type { CloseOptions, Segment } from './segment.js';
export type { LatencyStats, SegmentStats } from './stats.js';
export type { TypedArrayConstructor } from './view.js';
