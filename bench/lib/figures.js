// The figures, in the order of the table: one file each in bench/figures/.

/** @type {readonly string[]} */
export const FIGURES = [
  'random',
  'random-auto',
  'sequential',
  'watch-cost',
  'random-mprotect',
  'scan-budget',
  'random-budget-busy',
  'zipf-slow-store',
  'store-sync-same-cpu',
  'store-async-same-cpu',
  'store-sync-unpinned',
  'store-async-unpinned',
  'thread-same-cpu',
  'thread-unpinned',
  'two-workers',
  'eight-workers',
  'open-time',
  'open-memory',
  'bookkeeping',
  'many-segments',
  'auto',
  'paging-service-p50',
  'paging-service-p999',
  'paging-run',
  'guest-service-p50',
  'guest-service-p999',
  'guest-replay',
  'guest-quiet',
  'guest-working-set',
  'first-write',
  'dirty-set-clean',
  'dirty-set-dirty',
  'flush-contiguous',
  'flush-scattered',
  'write-scan-budget',
  'evict-writable',
  'memfd-continue',
  'kernel-call-copy',
  'kernel-call-wake',
];

/**
 * @param {string} name
 * @returns {Promise<import('./context.js').Figure>}
 */
export async function loadFigure(name) {
  const { default: figure } = await import(`../figures/${name}.js`);
  return figure;
}
