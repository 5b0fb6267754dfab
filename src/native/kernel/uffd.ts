/** userfaultfd(2), call by call: `native/binding_uffd.c`. */
export interface NativeUffd {
  /** A new descriptor: by the system call when `device` is -1, else USERFAULTFD_IOC_NEW on that descriptor. No handshake. `flags`: O_CLOEXEC, O_NONBLOCK, 1 (user mode only). */
  uffdOpen(flags: number, device: number): number;
  /** UFFDIO_API. `out`: granted features, ioctls of the descriptor. */
  uffdHandshake(fd: number, features: bigint, out: BigUint64Array): number;
  /** `mode`: 1 missing, 2 write-protect, 4 minor. `out[0]`: ioctls of the range. */
  uffdRegister(fd: number, address: bigint, byteLength: number, mode: number, out: BigUint64Array): number;
  uffdUnregister(fd: number, address: bigint, byteLength: number): number;
  /** Bytes copied (fewer than asked: stopped there, as EAGAIN with progress), or -errno with nothing copied. `mode`: 1 do not wake, 2 write-protect. */
  uffdCopy(fd: number, to: bigint, source: Uint8Array | bigint, byteLength: number, mode: number): number;
  uffdZeropage(fd: number, address: bigint, byteLength: number, mode: number): number;
  uffdContinue(fd: number, address: bigint, byteLength: number, mode: number): number;
  uffdPoison(fd: number, address: bigint, byteLength: number, mode: number): number;
  uffdMove(fd: number, to: bigint, from: bigint, byteLength: number, mode: number): number;
  uffdWake(fd: number, address: bigint, byteLength: number): number;
  uffdWriteProtect(fd: number, address: bigint, byteLength: number, mode: number): number;
  /**
   * The whole loop around COPY (what 0), ZEROPAGE (1) or CONTINUE (2). Returns 0 when the range is there, else -errno of what stopped it. `out`: bytes of
   * the range dealt with from its start, bytes that this call put there, bytes that were there already.
   */
  uffdResolve(
    fd: number,
    what: number,
    to: bigint,
    source: Uint8Array | bigint,
    byteLength: number,
    pageSize: number,
    mode: number,
    out: Float64Array,
  ): number;
  /** Bytes read: whole messages. -EAGAIN: none there. */
  uffdRead(fd: number, into: Uint8Array): number;
  /** The same, and never waits: -EDEADLK: nothing is there, and somebody who shares the descriptor has made it blocking. */
  uffdReadNow(fd: number, into: Uint8Array): number;
}
