/** What `unixKind` returns: the type of the socket, and a bit for one that listens. */
export const SOCKET_KIND = { stream: 1, listening: 0x100 } as const;

/** What became of a child, as siginfo names it: `out[0]` of `pidfdWait` and `pidfdExit`. `out[1]`: exit code or signal. */
export const CHILD_CODE = { exited: 1, killed: 2, dumped: 3, trapped: 4, stopped: 5, continued: 6 } as const;

/** What `pidfdWait` looks for. */
export const WAIT = { peek: 0, reap: 1, stops: 2 } as const;

/** In the place of the number of descriptors that `unixReceive` writes: something was cut off, and the descriptors are closed. */
export const CUT = { fds: -1, bytes: -2 } as const;

/** Descriptors over Unix sockets, pidfds, signalfds, memory of other processes: `native/binding_process.c`. */
export interface NativeProcess {
  /** close(2). */
  descriptorClose(fd: number): number;
  /** F_DUPFD_CLOEXEC. */
  descriptorDuplicate(fd: number): number;
  /** 1 when poll(2) reports anything, else 0. */
  descriptorIsReadable(fd: number): number;

  /** socketpair(2): streams, non-blocking, close-on-exec. Writes both to `out`. */
  unixPair(out: Int32Array): number;
  /** A descriptor. `path`: at most 107 bytes. */
  unixConnect(path: string): number;
  /** A descriptor. `mode` -1: by the umask. `made`: device and inode of the file, for `unixUnlink`. */
  unixListen(path: string, backlog: number, mode: number, made: bigint[]): number;
  /** Removes the file if it is still the one with this device and inode. */
  unixUnlink(path: string, device: bigint, inode: bigint): number;
  unixAccept(fd: number): number;
  /** SOCKET_KIND, or -ENOTSOCK, -EBADF, -EAFNOSUPPORT. */
  unixKind(fd: number): number;
  /** pid, uid, gid. */
  unixPeer(fd: number, out: Float64Array): number;
  /** A pidfd of the process that `unixPeer` names, or -ENOPROTOOPT before Linux 6.5. */
  unixPeerPidfd(fd: number): number;
  /** Bytes sent; the first `count` of `fds` went with the first byte. Never blocks, no SIGPIPE. */
  unixSend(fd: number, bytes: Uint8Array, fds: Int32Array, count: number): number;
  /** Bytes received. `out[0]`: number of descriptors that follow it, or CUT. Never blocks. */
  unixReceive(fd: number, into: Uint8Array, out: Int32Array, maxFds: number): number;

  pidfdOpen(pid: number): number;
  pidfdSignal(fd: number, signal: number): number;
  /** 1: there is one (see CHILD_CODE), 0: there is none. -ECHILD. */
  pidfdWait(fd: number, what: number, out: Int32Array): number;
  /** 1: reaped, and this is how it ended; 0: not reaped yet. -ENOTTY, -EINVAL, -ESRCH: this kernel cannot tell. */
  pidfdExit(fd: number, out: Int32Array): number;

  /** process_vm_readv(2): bytes read. */
  processRead(pid: number, address: bigint, into: Uint8Array): number;

  /** A signalfd, after the signals (bit n - 1 for signal n) were blocked in every thread. -EBUSY, -ETIMEDOUT, -EAGAIN: see native/process.h. */
  signalsOpen(signals: bigint): number;
  /** Closes it and unblocks the signals where they were not blocked before. */
  signalsClose(fd: number, signals: bigint): number;
  /** Signals that came, at most 16: number, si_code, pid, uid (as int32), status of each. -EAGAIN: none. */
  signalsRead(fd: number, out: Int32Array): number;
}
