/** Mappings, memory objects, PAGEMAP_SCAN: `native/binding_mapping.c`. */
export interface NativeMapping {
  /** mmap(2). Writes the address to `out[0]`. -EEXIST where MAP_FIXED_NOREPLACE finds something, on every kernel. */
  memoryMap(
    address: bigint,
    byteLength: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number,
    out: BigUint64Array,
  ): number;
  memoryUnmap(address: bigint, byteLength: number): number;
  memoryProtect(address: bigint, byteLength: number, protection: number): number;
  memoryAdvise(address: bigint, byteLength: number, advice: number): number;
  /** 1 when something is mapped at every page of the range, else 0. Touches nothing. */
  memoryExists(address: bigint, byteLength: number): number;
  /** Whole pages from malloc, contents dropped. Writes the address to `out[0]`. */
  memoryFromMalloc(byteLength: number, out: BigUint64Array): number;
  memoryFree(address: bigint, byteLength: number): number;
  /** Whole pages by moving the program break. -EBUSY: somebody else moves it. */
  memoryGrowBreak(byteLength: number, out: BigUint64Array): number;
  /** Address and size of the memory as an ArrayBuffer that owns nothing: any number of them, in any thread. Detached by `memoryDetach`. */
  memoryBuffer(address: bigint, byteLength: number): ArrayBuffer;
  memoryDetach(buffer: ArrayBuffer): void;
  /** memfd_create(2): a descriptor. The name is cut at 255 bytes. */
  memfdCreate(name: string, flags: number): number;
  memfdSeals(fd: number): number;
  memfdAddSeals(fd: number, seals: number): number;
  memfdPunch(fd: number, offset: number, byteLength: number): number;
  /** Bytes of a huge page where the descriptor is of hugetlbfs, else 0. */
  memfdHugePageSize(fd: number): number;
  /** Descriptor of /proc/PID/pagemap; 0: of this process. */
  pagemapOpen(pid: number): number;
  /**
   * One PAGEMAP_SCAN. `query`: start, end, flags, inverted, mask, anyof, return mask, pages at most. `regions`: start, end, categories of
   * each; the number of regions is returned, and `query[0]` becomes where to go on. On failure `regions` has what was found before, as
   * many as have an end.
   */
  pagemapScan(fd: number, query: BigUint64Array, regions: BigUint64Array): number;
}
