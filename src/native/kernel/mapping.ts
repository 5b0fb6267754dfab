/** Mappings, memory objects, PAGEMAP_SCAN: `native/binding_mapping.c`. */
export interface NativeMapping {
  /** mmap(2). Writes the address to `out[0]`. */
  memoryMap(
    address: bigint,
    byteLength: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number,
    out: BigUint64Array,
  ): number;
  /** Address and size of the memory as an ArrayBuffer that owns nothing: any number of them, in any thread. Detached by `memoryDetach`. */
  memoryBuffer(address: bigint, byteLength: number): ArrayBuffer;
  memoryDetach(buffer: ArrayBuffer): void;
}
