/** Errors of the child's side, as sentences. Any thread. */

import { errnoNames } from '../errors/from-native.js';
import { GuestError } from '../errors/guest-error.js';
import type { PagefaultError } from '../errors/pagefault-error.js';
import { PermissionError } from '../errors/permission-error.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import { refused } from '../kernel/refusal.js';
import type { GuestStage } from '../native/kernel/guest.js';

const HANDSHAKE = 'ERR_PAGEFAULT_GUEST_HANDSHAKE';

const CONNECT: Readonly<Record<string, string>> = {
  ENOENT: 'this process was not started by spawnPaged(): the environment variable PAGEFAULT_GUEST_FD is not set',
  ETIMEDOUT: 'the pager did not say hello within ten seconds',
  ECONNRESET: 'the pager ended before it said hello',
  EPROTO: 'what the pager said is not a hello',
  EPROTONOSUPPORT: 'the pager speaks a version of the protocol that this version of pagefault does not know',
  EINVAL: 'PAGEFAULT_GUEST_FD is not the number of a descriptor',
  EBADF: 'PAGEFAULT_GUEST_FD names a descriptor that is not open: whoever started this process did not pass it on',
  ENOTSOCK: 'PAGEFAULT_GUEST_FD names a descriptor that is no connection to a pager',
};

/** For a result of `guestConnect` below 0. */
export function connectError(result: number): GuestError {
  const { code, description } = errnoNames(-result);
  const why = CONNECT[code] ?? `the connection to the pager failed: ${description} (${code})`;
  return new GuestError(HANDSHAKE, `pagedMemory(): ${why}`, { errno: -result, pid: process.pid });
}

function fromUserfaultfd(result: number): PagefaultError {
  const { code } = errnoNames(-result);
  if (code === 'ENOSYS') {
    return new UnsupportedError('pagedMemory(): this kernel has no userfaultfd(2)', undefined, ['userfaultfd']);
  }
  if (code === 'EPERM' || code === 'EACCES') {
    return new PermissionError(
      'pagedMemory(): userfaultfd(2) is forbidden here, as it is in containers by default: allow the system call in the seccomp profile, or make /dev/userfaultfd readable; before Linux 5.11 it needs CAP_SYS_PTRACE or vm.unprivileged_userfaultfd=1',
      { errno: -result, syscall: 'userfaultfd' },
    );
  }
  return refused('pagedMemory(): no userfaultfd can be opened', result, 'userfaultfd');
}

/** For a result of `guestPage` below 0. */
export function pageError(result: number, stage: GuestStage, what: string): PagefaultError {
  const { code, description } = errnoNames(-result);
  const details = { errno: -result, pid: process.pid };
  if (stage === 'userfaultfd') return fromUserfaultfd(result);
  if (code === 'EPIPE') {
    return new GuestError(
      'ERR_PAGEFAULT_GUEST_GONE',
      `pagedMemory(): the pager is gone; ${what} is not paged`,
      details,
    );
  }
  if (stage === 'pager' && code === 'ETIMEDOUT') {
    return new GuestError(
      'ERR_PAGEFAULT_TIMEOUT',
      `pagedMemory(): the pager did not answer in time for ${what}`,
      details,
    );
  }
  if (stage === 'pager') {
    return new GuestError(HANDSHAKE, `pagedMemory(): the pager refused ${what}: ${description} (${code})`, details);
  }
  return refused(`pagedMemory(): ${what} cannot be paged`, result, stage === 'arguments' ? 'guestPage' : stage, {
    ENOSPC: 'this process has as many paged regions as it can have (128)',
    EBUSY: 'it is paged already, or another thread touched it meanwhile',
    ENOMEM: 'there is no memory for it, or this process has as many mappings as vm.max_map_count allows',
    EINVAL: 'the kernel cannot page this memory; huge pages need Linux 5.18',
  });
}
