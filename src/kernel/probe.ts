/** What the kernel offers this process, asked of the kernel itself, and why the rest is missing. Any thread. */

import { readFileSync } from 'node:fs';
import { errnoNames } from '../errors/from-native.js';
import type { NativeProbe } from '../native/binding.js';
import { native, probe as probeCore } from '../native/load.js';
import { FlagSet } from './flags.js';
import { hugePageSizes } from './huge-pages.js';
import { Mapping } from './mapping.js';
import { Memfd } from './memfd.js';
import { FEATURES, IOCTLS, type UffdFeature, type UffdIoctl } from './names.js';
import { PidFd } from './pidfd.js';
import {
  deviceRefusal,
  kernelFaultsRefusal,
  NO_PROCESS_MADVISE,
  type Refusal,
  userfaultfdRefusal,
} from './probe-reasons.js';
import { readProcessMemory } from './process-memory.js';
import { pageSize } from './range.js';
import { scanPages } from './scan-pages.js';
import { Uffd } from './uffd.js';

/** Whether something can be used here. */
export interface Finding {
  available: boolean;
  /** Why it is not available, and what helps, in sentences. Only where `available` is false. */
  why?: string;
  /** The errno that refused it, such as 'EPERM', where there was one. */
  errno?: string;
}

/** What `probe` found. */
export interface KernelProbe {
  /** As `uname -r` has it. */
  kernel: string;
  /** As `uname -m` has it. */
  arch: string;
  /** Bytes. */
  pageSize: number;
  userfaultfd: {
    /** One of the ways below works. */
    available: boolean;
    why?: string;
    /** Faults of programs: needs no privilege (5.11). */
    userModeOnly: Finding;
    /** Faults of the kernel too, by the system call. */
    kernelFaults: Finding;
    /** Faults of the kernel too, by the device (6.1). */
    device: Finding & { path: string };
    features: FlagSet<UffdFeature>;
    /** Of the descriptor, and of registered memory, private or shared. */
    ioctls: FlagSet<UffdIoctl>;
    /** The `why` of each way that does not work. */
    reasons: readonly string[];
  };
  /** PAGEMAP_SCAN (6.7). */
  pagemapScan: Finding;
  /** process_madvise on this process itself (5.10). */
  processMadvise: Finding;
  /** 5.3. */
  pidfd: Finding;
  /** How a process ended that somebody else reaped (6.15). */
  pidfdExitInfo: Finding;
  /** process_vm_readv. */
  processMemory: Finding;
  memfd: Finding;
  /** Huge pages (hugetlb): the pool of each size, in pages. */
  hugePages: readonly { byteLength: number; total: number; free: number }[];
  /** vm.max_map_count; 0 if it cannot be read. */
  maxMapCount: number;
  seccomp: 'none' | 'strict' | 'filter' | 'unknown';
  /** vm.unprivileged_userfaultfd; undefined where there is none. */
  unprivilegedUserfaultfd: boolean | undefined;
  /** CAP_SYS_PTRACE is effective in this process. */
  capSysPtrace: boolean;
}

const DEVICE = '/dev/userfaultfd';
const ALL_BITS = (1n << 64n) - 1n;
const CAP_SYS_PTRACE = 19n;
const SECCOMP = ['none', 'strict', 'filter'] as const;

function textOf(path: string): string {
  try {
    return readFileSync(path, 'latin1');
  } catch {
    return '';
  }
}

function finding(errno: number, refusal: () => Refusal): Finding {
  if (errno === 0) return { available: true };
  const { reason, fixes } = refusal();
  const sentences = [`${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`, ...fixes];
  return { available: false, why: sentences.join(' '), errno: errnoNames(errno).code };
}

/** Available if the call works; what it throws says why not. */
function tried(act: () => void): Finding {
  try {
    act();
    return { available: true };
  } catch (error) {
    const { message, errno } = error as Error & { errno?: number };
    const why = typeof message === 'string' ? message : String(error);
    return errno === undefined
      ? { available: false, why }
      : { available: false, why, errno: errnoNames(Math.abs(errno)).code };
  }
}

/** The ioctls of a descriptor and of memory of both kinds that is registered with it. */
function ioctlsOf(probe: NativeProbe): bigint {
  if (probe.userfaultfdErrno !== 0 && probe.kernelFaultsErrno !== 0 && probe.deviceErrno !== 0) return 0n;
  let bits = 0n;
  tried(() => {
    using uffd = Uffd.open();
    bits |= uffd.ioctls.bits;
    for (const shared of [false, true]) {
      using mapping = Mapping.anonymous(pageSize(), { shared });
      for (const mode of ['missing', 'write-protect', 'minor'] as const) {
        tried(() => {
          bits |= uffd.register(mapping, mode).bits; // what the memory is not fit for is refused
          uffd.unregister(mapping);
        });
      }
    }
  });
  return bits;
}

/** Where only the device is allowed, the core's own probe got none. */
function featuresOf(probe: NativeProbe): bigint {
  let bits = probe.features;
  if (bits !== 0n || (probe.kernelFaultsErrno !== 0 && probe.deviceErrno !== 0)) return bits;
  tried(() => {
    using uffd = Uffd.open({ optionalFeatures: ALL_BITS });
    bits = uffd.features.bits;
  });
  return bits;
}

function userfaultfdOf(probe: NativeProbe): KernelProbe['userfaultfd'] {
  const userModeOnly = finding(probe.userfaultfdErrno, () => userfaultfdRefusal(probe));
  const kernelFaults = finding(probe.kernelFaultsErrno, () => kernelFaultsRefusal(probe));
  const device = { path: DEVICE, ...finding(probe.deviceErrno, () => deviceRefusal(probe)) };
  const available = userModeOnly.available || kernelFaults.available || device.available;
  return {
    available,
    ...(available || userModeOnly.why === undefined ? {} : { why: userModeOnly.why }),
    userModeOnly,
    kernelFaults,
    device,
    features: new FlagSet(featuresOf(probe), FEATURES),
    ioctls: new FlagSet(ioctlsOf(probe), IOCTLS),
    reasons: [userModeOnly, kernelFaults, device].flatMap(({ why }) => (why === undefined ? [] : [why])),
  };
}

function exitInfo(kernel: string): Finding {
  const why =
    'This kernel does not tell how a process ended that was reaped by somebody else, which came with Linux 6.15. Use a newer kernel, or look before the parent reaps it.';
  const [major = 0, minor = 0] = kernel.split('.').map(Number);
  let result = -1;
  tried(() => {
    using own = PidFd.open(process.pid);
    result = native().pidfdExit(own.fd, new Int32Array(2));
  });
  // 6.13 knows the call and not the answer.
  return result >= 0 && (major > 6 || (major === 6 && minor >= 15)) ? { available: true } : { available: false, why };
}

function hugePagesOf(): KernelProbe['hugePages'] {
  return hugePageSizes().map((byteLength) => {
    const folder = `/sys/kernel/mm/hugepages/hugepages-${byteLength / 1024}kB`;
    const number = (name: string): number => Number(textOf(`${folder}/${name}`)) || 0;
    return { byteLength, total: number('nr_hugepages'), free: number('free_hugepages') };
  });
}

function sysctlOf(): boolean | undefined {
  const text = textOf('/proc/sys/vm/unprivileged_userfaultfd').trim();
  return text === '' ? undefined : text !== '0';
}

function hasPtrace(): boolean {
  const [, hex] = /^CapEff:\s*([0-9a-f]+)$/m.exec(textOf('/proc/self/status')) ?? [];
  return hex !== undefined && ((BigInt(`0x${hex}`) >> CAP_SYS_PTRACE) & 1n) === 1n;
}

/** Looks at one page of our own. */
function onePage(act: (page: Mapping) => void): Finding {
  return tried(() => {
    using page = Mapping.anonymous(pageSize());
    act(page);
  });
}

/**
 * Asks the kernel what this process may use: by trying, not by its version, where that is possible. Everything that is not available
 * says why, and what helps. Never throws on Linux. Takes about a millisecond, and leaves nothing behind.
 * @throws {UnsupportedError} on a platform for which there is no core
 */
export function probe(): KernelProbe {
  const core = probeCore();
  return {
    kernel: core.kernel,
    arch: core.arch,
    pageSize: core.pageSize,
    userfaultfd: userfaultfdOf(core),
    pagemapScan: onePage((page) => void scanPages(page)),
    processMadvise: core.vectoredMadvise ? { available: true } : { available: false, why: NO_PROCESS_MADVISE },
    pidfd: tried(() => PidFd.open(process.pid).close()),
    pidfdExitInfo: exitInfo(core.kernel),
    processMemory: onePage((page) => void readProcessMemory(process.pid, page.address, new Uint8Array(1))),
    memfd: tried(() => Memfd.create('pagefault probe').close()),
    hugePages: hugePagesOf(),
    maxMapCount: core.maxMapCount,
    seccomp: SECCOMP[core.seccomp] ?? 'unknown',
    unprivilegedUserfaultfd: sysctlOf(),
    capSysPtrace: hasPtrace(),
  };
}
