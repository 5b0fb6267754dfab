/** Where pages can come from: the public entry 'pagefault/stores'. */

export type { OpenStore, PageStore, ReadAnswer, ReadHow, WriteHow } from './contract.js';
export { custom } from './custom.js';
export { type FileOptions, file } from './file.js';
export { memory } from './memory.js';
export type { CustomRef, FileRef, MemoryRef, StoreRef, UdsRef, ZeroRef } from './ref.js';
export { type UdsOptions, uds } from './uds.js';
export { zero } from './zero.js';
