/** Looking at segments: the public entry 'pagefault/observe'. */

export { formatBytes, formatCount, formatDuration, formatQuantity } from './format.js';
export { describeLatency, renderHistogram } from './histogram.js';
export { countPages, type PageCounts, type PageSource, renderPageMap } from './page-map.js';
export { type Observed, renderCounters, renderSegment } from './report.js';
export { hasUnicode, plainTerminal, type Style, type Terminal, terminalOf } from './terminal.js';
