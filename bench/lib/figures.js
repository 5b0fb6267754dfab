// The figures, in the order of the table: one file each in bench/figures/.

/** @type {readonly string[]} */
export const FIGURES = [
  'random',
  'random-auto',
  'sequential',
  'random-mprotect',
  'scan-budget',
  'random-budget-busy',
  'zipf-slow-store',
  'store-sync-same-cpu',
  'store-async-same-cpu',
  'store-sync-unpinned',
  'store-async-unpinned',
  'two-workers',
  'open-time',
  'open-memory',
  'bookkeeping',
  'many-segments',
  'auto',
  'paging-service-p50',
  'paging-service-p999',
  'paging-run',
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
