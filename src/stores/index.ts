/** Where pages can come from: the public entry 'pagefault/stores'. */

export type { OpenStore, PageStore, ReadAnswer, ReadHow } from './contract.js';
export { custom } from './custom.js';
export { type FileOptions, file } from './file.js';
export { memory } from './memory.js';
export type { CustomRef, FileRef, MemoryRef, StoreRef, ZeroRef } from './ref.js';
export { zero } from './zero.js';
