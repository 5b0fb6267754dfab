/** The child's side of a process that another one pages: `native/binding_guest.c` over `include/pagefault_guest.h`. */
export interface NativeGuest {
  /** True in a process that `spawnPaged` started and that has not attached yet. */
  guestIsExpected(): boolean;
  /**
   * Connects to the pager, once a process: later calls, in any thread, give the first result. `out`: bytes of the store (0: not known), bytes of
   * a page. -ENOENT: no pager started this process. Waits up to 10 seconds.
   */
  guestConnect(out: Float64Array): number;
  /**
   * Hands over memory and waits for the pager's answer. `flags`: PAGEFAULT_GUEST_MMAP (1), MALLOC, BRK, SHM, HUGETLB (5, with log2 of its
   * page size from bit 26 on). `out`: who refused (GUEST_STAGE), whether the kernel itself cannot wait for a page (0 or 1). After a
   * refusal the memory may be inaccessible (PROT_NONE).
   */
  guestPage(address: bigint, byteLength: number, storeOffset: number, flags: number, out: Float64Array): number;
}

/** Who said no to `guestPage`: the enumeration pagefault_guest_stage. */
export const GUEST_STAGE = ['arguments', 'userfaultfd', 'madvise', 'UFFDIO_REGISTER', 'sendmsg', 'pager'] as const;
export type GuestStage = (typeof GUEST_STAGE)[number];
