/** Which backend a segment gets, and the sentence that says why. Any thread. */

import { errnoNames } from '../errors/from-native.js';
import { SystemError } from '../errors/system-error.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import type { NativeBackend, NativeProbe, NativeTracking } from '../native/binding.js';
import { exhausted } from '../native/load.js';

/** How pages get in. */
export type Backend = NativeBackend;

export interface Choice {
  backend: Backend;
  /** Why this one. */
  reason: string;
}

function userfaultfdRefused({ engineErrno, seccomp }: NativeProbe): string {
  const { code } = errnoNames(engineErrno);
  if (code === 'ENOSYS')
    return `userfaultfd is not there (${code}: the kernel is built without it, or a sandbox hides it)`;
  if (code === 'EPERM') {
    const why = seccomp === 2 ? 'a seccomp filter, as containers have, or a sysctl' : 'a sysctl or a security module';
    return `userfaultfd is refused here (${code}: ${why})`;
  }
  return `userfaultfd does not work here (${code})`;
}

function mprotectRefused({ mprotectErrno }: NativeProbe): string {
  return `mprotect on a memfd does not work here (${errnoNames(mprotectErrno).code})`;
}

const CANNOT_PROTECT = 'this kernel cannot write-protect pages, which writable: true needs (Linux 5.7)';

/** Why backend memfd cannot work, or undefined. */
export function memfdRefused(probe: NativeProbe, writable: boolean): string | undefined {
  if (probe.engineErrno !== 0) return userfaultfdRefused(probe);
  if (probe.sharedPages === 'none') return 'this kernel has no minor faults on shared memory (Linux 5.14)';
  if (writable && probe.sharedPages !== 'write') {
    return 'this kernel cannot write-protect pages of shared memory, which writable: true needs (Linux 6.4)';
  }
  return undefined;
}

/** Why userfaultfd is of no use for this segment. */
function signalRefused(probe: NativeProbe): string {
  if (probe.engineErrno !== 0) return userfaultfdRefused(probe);
  return CANNOT_PROTECT;
}

/** Why backend thread cannot work, or undefined. */
export function threadRefused(probe: NativeProbe, writable: boolean): string | undefined {
  if (probe.servedErrno === 0) return writable && probe.writeTracking === 'none' ? CANNOT_PROTECT : undefined;
  if (probe.engineErrno !== 0) return userfaultfdRefused(probe);
  const { code } = errnoNames(probe.servedErrno);
  return `this process may not serve faults of the kernel (${code}); "npx pagefault doctor" says what allows it`;
}

function chooseThread(probe: NativeProbe, writable: boolean, asked: string, reason: string): Choice {
  const refused = threadRefused(probe, writable);
  if (refused !== undefined) throw new UnsupportedError(`${asked} cannot work: ${refused}`);
  const from = probe.servedByDevice ? ' (its userfaultfd comes from /dev/userfaultfd)' : '';
  return { backend: 'thread', reason: `${reason}${from}` };
}

/** What the choice depends on besides the machine. */
export interface Wanted {
  backend: 'auto' | Backend;
  writable: boolean;
  /** Missing pages must be brought to system calls, too. */
  kernelFaults: boolean;
}

/** What the kernel can do is not known, because a limit of the process or of the system is reached. */
function checkKnown(probe: NativeProbe): void {
  const errno = exhausted(probe);
  if (errno === 0) return;
  const { code, description } = errnoNames(errno);
  const kind = code === 'ENOMEM' ? 'ERR_PAGEFAULT_NO_MEMORY' : 'ERR_PAGEFAULT_SYSTEM';
  throw new SystemError(kind, `the kernel cannot be asked now what it can do (${code}: ${description})`, { errno });
}

/** Picks the backend, or throws an UnsupportedError that says why none is left. */
export function chooseBackend({ backend: asked, writable, kernelFaults }: Wanted, probe: NativeProbe): Choice {
  checkKnown(probe);
  if (asked === 'thread') return chooseThread(probe, writable, "backend 'thread'", 'asked for');
  if (kernelFaults) {
    return chooseThread(probe, writable, 'kernelFaults: true', 'a service thread brings pages to system calls, too');
  }
  const signal = probe.engineErrno === 0 && (!writable || probe.writeTracking !== 'none');
  const mprotect = probe.mprotectErrno === 0;
  if (asked === 'signal') {
    if (signal) return { backend: 'signal', reason: 'asked for' };
    throw new UnsupportedError(`backend 'signal' cannot work: ${signalRefused(probe)}`);
  }
  if (asked === 'mprotect') {
    if (mprotect) return { backend: 'mprotect', reason: 'asked for' };
    throw new UnsupportedError(`backend 'mprotect' cannot work: ${mprotectRefused(probe)}`);
  }
  if (asked === 'memfd') {
    const refused = memfdRefused(probe, writable);
    if (refused === undefined) return { backend: 'memfd', reason: 'asked for' };
    throw new UnsupportedError(`backend 'memfd' cannot work: ${refused}`);
  }
  if (signal) {
    return { backend: 'signal', reason: 'userfaultfd works here, so the thread that faults fills its page (SIGBUS)' };
  }
  if (mprotect) {
    return { backend: 'mprotect', reason: `${signalRefused(probe)}, so faults come as SIGSEGV (mprotect)` };
  }
  throw new UnsupportedError(`no backend works: ${signalRefused(probe)}, and ${mprotectRefused(probe)}`);
}

/** Why a backend was chosen, with how it sees what is written. */
export function withTracking({ backend, reason }: Choice, tracking: NativeTracking, onWrite: boolean): string {
  if (tracking === 'none') return reason;
  if (tracking === 'async') return `${reason}; the kernel notes which pages are written`;
  const fault = `${reason}; the first write to a page is a fault`;
  if (onWrite) return `${fault}, because the store has onWrite`;
  return backend === 'signal' || backend === 'thread'
    ? `${fault}, because the kernel cannot note writes itself`
    : fault;
}
