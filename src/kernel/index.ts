/** `pagefault/kernel`: userfaultfd(2) and what belongs beside it, typed and thin. */
export { Watch, type WatchOptions, watch } from './watch.js';
