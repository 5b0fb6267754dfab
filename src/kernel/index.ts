/** `pagefault/kernel`: userfaultfd(2) and what belongs beside it, typed and thin. */

export { FlagSet } from './flags.js';
export { hugePageSizes } from './huge-pages.js';
export { Mapping, type MappingKind } from './mapping.js';
export type { FileOptions } from './mapping-file.js';
export type { AnonymousOptions, HeapOptions } from './mapping-make.js';
export type { Advice, Protection } from './mapping-options.js';
export type { PatchOptions, PatchSource } from './mapping-patch.js';
export { Memfd, type MemfdOptions, type Seal } from './memfd.js';
export { PageScanError } from './page-scan-error.js';
export { pageSize, type Range } from './range.js';
export {
  type PageCategory,
  type PageSpan,
  type ScanPagesOptions,
  type ScanWrittenOptions,
  scanPages,
  scanWritten,
} from './scan-pages.js';
export { Watch, type WatchOptions, watch } from './watch.js';
