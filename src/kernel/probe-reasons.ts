/** Why something of the kernel is refused here, and what to do about it: the sentences of `probe()` and of `doctor`. Pure functions. */

import { errnoNames } from '../errors/from-native.js';
import type { NativeProbe } from '../native/binding.js';

/** Why something does not work; `fixes` is empty where nothing helps. */
export interface Refusal {
  reason: string;
  fixes: string[];
}

/** Why userfaultfd(2) in user-mode-only mode was refused, and what to do about it. */
export function userfaultfdRefusal(probe: NativeProbe): Refusal {
  const errno = errnoNames(probe.userfaultfdErrno).code;
  const filtered = probe.seccomp !== 0;
  switch (errno) {
    case 'EPERM':
    case 'EACCES':
      return filtered
        ? { reason: `userfaultfd is refused (${errno}) and a seccomp filter is on`, fixes: seccompFixes() }
        : {
            reason: `userfaultfd is refused (${errno}) although no seccomp filter is on: a security module forbids it`,
            fixes: ['Allow anonymous inodes of type [userfaultfd] for this process in the SELinux or AppArmor policy.'],
          };
    case 'ENOSYS':
      return {
        reason: 'this kernel has no userfaultfd (ENOSYS), or the sandbox hides it',
        fixes: [
          'Use a kernel built with CONFIG_USERFAULTFD=y, as the kernels of all large distributions are.',
          ...(filtered ? seccompFixes() : []),
        ],
      };
    case 'EINVAL':
      return {
        reason: 'this kernel has no user-mode-only userfaultfd (EINVAL), which came with Linux 5.11',
        fixes: ['Use Linux 5.11 or later.'],
      };
    default:
      return { reason: `userfaultfd is refused (${errno})`, fixes: [] };
  }
}

function seccompFixes(): string[] {
  return [
    'Docker, Podman: take the default seccomp profile, add "userfaultfd" to the names it allows, and start the container with --security-opt seccomp=PROFILE.json.',
    'Kubernetes: install that profile on the node and set securityContext.seccompProfile to type Localhost.',
    'systemd: add userfaultfd to SystemCallFilter= of the unit.',
  ];
}

/** What lets a process serve faults of the kernel. */
export function kernelModeFixes(probe: NativeProbe): string[] {
  const fixes: string[] = [];
  const filtered = probe.seccomp !== 0 && probe.userfaultfdErrno !== 0; // then no privilege helps the system call
  if (!filtered) fixes.push('sysctl -w vm.unprivileged_userfaultfd=1, or give the process CAP_SYS_PTRACE.');
  if (errnoNames(probe.deviceErrno).code !== 'ENOENT') {
    fixes.push('let this user open the device: setfacl -m u:USER:rw /dev/userfaultfd');
  }
  fixes.push(
    'start it from a process that may, with the device open: PAGEFAULT_USERFAULTFD=3 COMMAND 3<>/dev/userfaultfd',
    'send it a descriptor of the device (Linux 6.1) over a Unix socket, for useDevice() of pagefault/kernel.',
  );
  return fixes.map((fix, i) =>
    i > 0 ? `Or ${fix}` : fix.startsWith('sysctl') ? fix : `${fix.charAt(0).toUpperCase()}${fix.slice(1)}`,
  );
}

/** Why evicting costs one call for each run of pages. */
export const NO_PROCESS_MADVISE: string =
  'process_madvise does not work on this process, so evicting costs one call for each run of pages (Linux 5.10).';

/** Why the userfaultfd system call serves no faults of the kernel. */
export function kernelFaultsRefusal(probe: NativeProbe): Refusal {
  const errno = errnoNames(probe.kernelFaultsErrno).code;
  if (errno !== 'EPERM' || (probe.userfaultfdErrno !== 0 && probe.seccomp !== 0)) {
    return userfaultfdRefusal({ ...probe, userfaultfdErrno: probe.kernelFaultsErrno });
  }
  return {
    reason: `faults of the kernel are refused (${errno}): they need a privilege`,
    fixes: kernelModeFixes(probe),
  };
}

/** Why /dev/userfaultfd cannot be opened. */
export function deviceRefusal(probe: NativeProbe): Refusal {
  const errno = errnoNames(probe.deviceErrno).code;
  if (errno === 'ENOENT') {
    return {
      reason:
        'there is no /dev/userfaultfd (ENOENT), which came with Linux 6.1; containers do not show it by themselves',
      fixes: ['Mount the device into the container (docker run --device /dev/userfaultfd).'],
    };
  }
  const fixes = ['Let this user open the device: setfacl -m u:USER:rw /dev/userfaultfd'];
  return { reason: `/dev/userfaultfd cannot be opened (${errno})`, fixes };
}
