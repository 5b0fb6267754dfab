/** Descriptors over Unix sockets, pidfds, signalfds, memory of other processes: `native/binding_process.c`. */
export interface NativeProcess {
  /** close(2). */
  descriptorClose(fd: number): number;
}
