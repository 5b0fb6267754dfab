/**
 * Whole suites that are run once more on a kernel that acts as if it were older. What is taken away is the core's, whatever the version of Node: `.ci/run` has them
 * on the first version only (PAGEFAULT_OLDER_KERNELS=no on the others).
 */
export const skipOlderKernels: string | false =
  process.env['PAGEFAULT_OLDER_KERNELS'] === 'no' &&
  'PAGEFAULT_OLDER_KERNELS=no: they are played on another version of Node';
