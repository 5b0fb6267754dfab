/** The errors of this library. */

export { ClosedError } from './closed-error.js';
export type { ArgumentErrorCode, PageErrorCode, PagefaultErrorCode, PageSourceErrorCode } from './codes.js';
export { DescriptorError } from './descriptor-error.js';
export { GuestError } from './guest-error.js';
export { OutOfRegionError } from './out-of-region-error.js';
export { PageError } from './page-error.js';
export { type PageMessage, PageSourceError, type PageSourceErrorDetails } from './page-source-error.js';
export { PagefaultError, type PagefaultErrorDetails } from './pagefault-error.js';
export { PermissionError } from './permission-error.js';
export { StaleHandleError } from './stale-handle-error.js';
export { StoreError, type StoreErrorCode } from './store-error.js';
export { SupervisorError } from './supervisor-error.js';
export { SystemError } from './system-error.js';
export { UffdError, type UffdErrorCode, type UffdErrorDetails } from './uffd-error.js';
export { UnsupportedError } from './unsupported-error.js';
export { WorkingSetError, type WorkingSetErrorCode } from './working-set-error.js';
