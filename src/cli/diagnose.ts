/**
 * What a probe of the kernel and of the runtime means: which backends work, why the others do not, and what helps. Pure
 * functions from numbers to a report, so that every case can be tested on any machine. Main thread.
 */
import { errnoNames } from '../errors/from-native.js';
import {
  kernelFaultsRefusal,
  kernelModeFixes,
  NO_PROCESS_MADVISE,
  userfaultfdRefusal,
} from '../kernel/probe-reasons.js';
import type { NativeProbe } from '../native/binding.js';
import { memfdRefused, threadRefused } from '../segment/backend.js';

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
  const backends = [signalBackend(probe), mprotectBackend(probe), memfdBackend(probe), threadBackend(probe), KERNEL];
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
  if (probe.engineErrno !== 0) return { name, works: 'no', ...userfaultfdRefusal(probe) };
  if (probe.features === 0n && probe.servedByDevice) {
    // Its features are not known, but the device is newer than the one that is needed.
    const reason =
      'userfaultfd is had from /dev/userfaultfd, the system call is refused; the thread that touches a page answers its own fault';
    return { name, works: 'yes', reason, fixes: [] };
  }
  if ((probe.features & (1n << BigInt(SIGBUS_BIT))) === 0n) {
    const reason = 'userfaultfd works, but without the feature SIGBUS (Linux 4.14)';
    return { name, works: 'no', reason, fixes: ['Use a newer kernel.'] };
  }
  const reason = 'userfaultfd works without privileges; the thread that touches a page answers its own fault';
  return { name, works: 'yes', reason, fixes: [] };
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

function memfdBackend(probe: NativeProbe): BackendDiagnosis {
  const name = 'memfd';
  if (probe.engineErrno !== 0) return { name, works: 'no', ...userfaultfdRefusal(probe) };
  const refused = memfdRefused(probe, false);
  if (refused !== undefined) return { name, works: 'no', reason: refused, fixes: ['Use a newer kernel.'] };
  const readOnly = memfdRefused(probe, true);
  const reason = 'shared memory that is opened page by page (minor faults); only where it is asked for';
  return {
    name,
    works: 'yes',
    reason: readOnly === undefined ? reason : `${reason}; read-only: ${readOnly}`,
    fixes: [],
  };
}

function threadBackend(probe: NativeProbe): BackendDiagnosis {
  const name = 'thread';
  const refused = threadRefused(probe, false);
  if (refused !== undefined) {
    const reason = probe.engineErrno === 0 ? kernelFaultsRefusal(probe).reason : refused;
    return { name, works: 'no', reason, fixes: kernelModeFixes(probe) };
  }
  const from = probe.servedByDevice ? ', from /dev/userfaultfd' : '';
  const reason = `a service thread brings pages to system calls, too${from}; where it is asked for (kernelFaults: true)`;
  return { name, works: 'yes', reason, fixes: [] };
}

const KERNEL: BackendDiagnosis = { name: 'kernel', works: 'later', reason: 'not in this release', fixes: [] };

function advice(probe: NativeProbe): string[] {
  const given: string[] = [];
  if (probe.engineErrno !== 0 && probe.maxMapCount > 0 && probe.maxMapCount <= DEFAULT_MAX_MAP_COUNT) {
    given.push(
      `mprotect uses one kernel mapping for each run of pages. Random access to a large segment is faster with more than ${probe.maxMapCount}: sysctl -w vm.max_map_count=1048576`,
    );
  }
  if (!probe.vectoredMadvise) {
    given.push(NO_PROCESS_MADVISE);
  }
  if (!probe.externalSharedArrayBuffer) {
    given.push(
      'This runtime cannot make a SharedArrayBuffer of memory it did not allocate, so shared: true is limited to 4 GiB. Node.js 22.23.3, 24.16, 26.1 and later can.',
    );
  }
  return given;
}
