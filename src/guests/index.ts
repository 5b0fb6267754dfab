/** `pagefault/guests`: pages for other processes. */

export {
  isPaged,
  type PagedMemory,
  type PagedMemoryKind,
  type PagedMemoryOptions,
  pagedMemory,
} from './paged-memory.js';
