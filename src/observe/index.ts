/** Looking at segments and at servers of guests: the public entry 'pagefault/observe'. */

export { formatBytes, formatCount, formatDuration, formatQuantity, formatShort } from './format.js';
export { describeLatency, renderHistogram } from './histogram.js';
export { METRICS_TYPE, renderMetrics } from './metrics.js';
export { Observation, type ObserveServerOptions, observeServer } from './observe-server.js';
export {
  type GuestSnapshot,
  type ObservedClient,
  type ObservedGuest,
  type ObservedNumbers,
  type ObservedServer,
  type ObservedService,
  type RestoreProgress,
  type ServerSnapshot,
  snapshotOf,
} from './observed.js';
export { countPages, type PageCounts, type PageSource, renderPageMap } from './page-map.js';
export { observedProcess } from './paged-process.js';
export { type Observed, renderCounters, renderSegment } from './report.js';
export { hasUnicode, plainTerminal, type Style, type Terminal, terminalOf } from './terminal.js';
export { renderTop, type TopScene } from './top.js';
export { guestKey, TOP_SORTS, type TopRow, type TopSort, topRows } from './top-rows.js';
export { renderWorkingSet, summarizeWorkingSet, type WorkingSetSummary } from './working-set.js';
