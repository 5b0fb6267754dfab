/**
 * What a probe of the kernel and of the runtime means: which backends work, why the others do not, and what helps. Pure
 * functions from numbers to a report, so that every case can be tested on any machine. Main thread.
 */
import { errnoNames } from '../errors/from-native.js';
import type { NativeProbe } from '../native/binding.js';

/** Names of the bits of `features`, from bit 0 on: linux/userfaultfd.h. */
export const FEATURE_NAMES = [
  'PAGEFAULT_FLAG_WP',
  'EVENT_FORK',
  'EVENT_REMAP',
  'EVENT_REMOVE',
  'MISSING_HUGETLBFS',
  'MISSING_SHMEM',
  'EVENT_UNMAP',
  'SIGBUS',
  'THREAD_ID',
  'MINOR_HUGETLBFS',
  'MINOR_SHMEM',
  'EXACT_ADDRESS',
  'WP_HUGETLBFS_SHMEM',
  'WP_UNPOPULATED',
  'POISON',
  'WP_ASYNC',
  'MOVE',
] as const;

const SIGBUS_BIT = FEATURE_NAMES.indexOf('SIGBUS');
const DEFAULT_MAX_MAP_COUNT = 65_530;
const SECCOMP = ['none', 'strict', 'filter'] as const;

export type Works = 'yes' | 'no' | 'later';

export interface BackendDiagnosis {
  name: 'signal' | 'mprotect' | 'memfd' | 'thread' | 'kernel';
  /** `later`: not in this release. */
  works: Works;
  /** How it works, or why it does not. */
  reason: string;
  /** What to do about it; empty where nothing helps or nothing is wrong. */
  fixes: string[];
}

/** Access to a facility of the kernel: `errno` is a name such as 'EPERM', or null where it works. */
export interface Access {
  works: boolean;
  errno: string | null;
}

export interface Diagnosis {
  supported: boolean;
  kernel: string;
  arch: string;
  pageSize: number;
  userfaultfd: { userMode: Access; kernelMode: Access; device: Access; features: string[] };
  mprotect: Access;
  seccomp: (typeof SECCOMP)[number] | 'unknown';
  maxMapCount: number;
  vectoredMadvise: boolean;
  externalSharedArrayBuffer: boolean;
  backends: BackendDiagnosis[];
  /** What works, but could work better. */
  advice: string[];
}

/** The whole report for a probe. */
export function diagnose(probe: NativeProbe): Diagnosis {
  const backends = [signalBackend(probe), mprotectBackend(probe), ...laterBackends(probe)];
  return {
    supported: backends.some((backend) => backend.works === 'yes'),
    kernel: probe.kernel,
    arch: probe.arch,
    pageSize: probe.pageSize,
    userfaultfd: {
      userMode: access(probe.userfaultfdErrno),
      kernelMode: access(probe.kernelFaultsErrno),
      device: access(probe.deviceErrno),
      features: featureNames(probe.features),
    },
    mprotect: access(probe.mprotectErrno),
    seccomp: SECCOMP[probe.seccomp] ?? 'unknown',
    maxMapCount: probe.maxMapCount,
    vectoredMadvise: probe.vectoredMadvise,
    externalSharedArrayBuffer: probe.externalSharedArrayBuffer,
    backends,
    advice: advice(probe),
  };
}

/** The names of the feature bits that are set; unknown ones as `bit 17`. */
export function featureNames(features: bigint): string[] {
  const names: string[] = [];
  for (let bit = 0; features >> BigInt(bit) > 0n; bit++) {
    if (((features >> BigInt(bit)) & 1n) === 1n) names.push(FEATURE_NAMES[bit] ?? `bit ${bit}`);
  }
  return names;
}

function access(errno: number): Access {
  return errno === 0 ? { works: true, errno: null } : { works: false, errno: errnoNames(errno).code };
}

function signalBackend(probe: NativeProbe): BackendDiagnosis {
  const name = 'signal';
  if (probe.userfaultfdErrno !== 0) return { name, works: 'no', ...userfaultfdRefusal(probe) };
  if ((probe.features & (1n << BigInt(SIGBUS_BIT))) === 0n) {
    const reason = 'userfaultfd works, but without the feature SIGBUS (Linux 4.14)';
    return { name, works: 'no', reason, fixes: ['Use a newer kernel.'] };
  }
  const reason = 'userfaultfd works without privileges; the thread that touches a page answers its own fault';
  return { name, works: 'yes', reason, fixes: [] };
}

/** Why userfaultfd(2) in user-mode-only mode was refused, and what to do about it. */
function userfaultfdRefusal(probe: NativeProbe): { reason: string; fixes: string[] } {
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

function mprotectBackend(probe: NativeProbe): BackendDiagnosis {
  const name = 'mprotect';
  if (probe.mprotectErrno === 0) {
    const reason = 'memory mapped twice and opened page by page; needs nothing of the kernel that containers forbid';
    return { name, works: 'yes', reason, fixes: [] };
  }
  const errno = errnoNames(probe.mprotectErrno).code;
  const fixes = ['Allow memfd_create, mmap and mprotect in the sandbox, and leave some address space (ulimit -v).'];
  return { name, works: 'no', reason: `a memfd cannot be mapped twice and protected here (${errno})`, fixes };
}

/** Backends of later releases. What they will need is reported now, so that a machine can be prepared. */
function laterBackends(probe: NativeProbe): BackendDiagnosis[] {
  const later = 'not in this release';
  const ready = probe.kernelFaultsErrno === 0 || probe.deviceErrno === 0;
  const thread = ready
    ? `${later}; what it needs is allowed here`
    : `${later}; it needs faults of the kernel, refused here`;
  return [
    { name: 'memfd', works: 'later', reason: later, fixes: [] },
    { name: 'thread', works: 'later', reason: thread, fixes: ready ? [] : kernelModeFixes(probe) },
    { name: 'kernel', works: 'later', reason: later, fixes: [] },
  ];
}

function kernelModeFixes(probe: NativeProbe): string[] {
  const fixes = ['sysctl -w vm.unprivileged_userfaultfd=1, or give the process CAP_SYS_PTRACE.'];
  if (errnoNames(probe.deviceErrno).code !== 'ENOENT') {
    fixes.push('Or let this user open the device: setfacl -m u:USER:rw /dev/userfaultfd');
  }
  return fixes;
}

function advice(probe: NativeProbe): string[] {
  const given: string[] = [];
  if (probe.userfaultfdErrno !== 0 && probe.maxMapCount > 0 && probe.maxMapCount <= DEFAULT_MAX_MAP_COUNT) {
    given.push(
      `mprotect uses one kernel mapping for each run of pages. Random access to a large segment is faster with more than ${probe.maxMapCount}: sysctl -w vm.max_map_count=1048576`,
    );
  }
  if (!probe.vectoredMadvise) {
    given.push(
      'process_madvise does not work on this process, so evicting costs one call for each run of pages (Linux 5.10).',
    );
  }
  if (!probe.externalSharedArrayBuffer) {
    given.push(
      'This runtime cannot make a SharedArrayBuffer of memory it did not allocate, so shared: true is limited to 4 GiB. Node.js 22.23.3, 24.16, 26.1 and later can.',
    );
  }
  return given;
}
