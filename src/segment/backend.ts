/** Which backend a segment gets, and the sentence that says why. Any thread. */

import { errnoNames } from '../errors/from-native.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import type { NativeBackend, NativeProbe } from '../native/binding.js';

/** How pages get in. */
export type Backend = NativeBackend;

export interface Choice {
  backend: Backend;
  /** Why this one. */
  reason: string;
}

function userfaultfdRefused({ userfaultfdErrno, seccomp }: NativeProbe): string {
  const { code } = errnoNames(userfaultfdErrno);
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

/** Picks the backend, or throws an UnsupportedError that says why none is left. */
export function chooseBackend(asked: 'auto' | Backend, probe: NativeProbe): Choice {
  const signal = probe.userfaultfdErrno === 0;
  const mprotect = probe.mprotectErrno === 0;
  if (asked === 'signal') {
    if (signal) return { backend: 'signal', reason: 'asked for' };
    throw new UnsupportedError(`backend 'signal' cannot work: ${userfaultfdRefused(probe)}`);
  }
  if (asked === 'mprotect') {
    if (mprotect) return { backend: 'mprotect', reason: 'asked for' };
    throw new UnsupportedError(`backend 'mprotect' cannot work: ${mprotectRefused(probe)}`);
  }
  if (signal) {
    return { backend: 'signal', reason: 'userfaultfd works here, so the thread that faults fills its page (SIGBUS)' };
  }
  if (mprotect) {
    return { backend: 'mprotect', reason: `${userfaultfdRefused(probe)}, so faults come as SIGSEGV (mprotect)` };
  }
  throw new UnsupportedError(`no backend works: ${userfaultfdRefused(probe)}, and ${mprotectRefused(probe)}`);
}
