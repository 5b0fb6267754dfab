/** The public entry 'pagefault'. */

export * from './errors/index.js';
export { isSupported, systemPageSize } from './native/load.js';
export * from './segment/index.js';
export type { StoreRef } from './stores/ref.js';
