/** Firecracker's Uffd backend: guest memory that comes from a snapshot, page by page. */

export type { ServeFirecrackerOptions, Supervision } from './options.js';
export { serveFirecracker } from './serve.js';
export { type FirecrackerEvents, FirecrackerServer } from './server.js';
