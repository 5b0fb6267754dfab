/** Reading the memory of another process (process_vm_readv). Any thread. */

import { constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { PermissionError } from '../errors/permission-error.js';
import { UnsupportedError } from '../errors/unsupported-error.js';
import { native } from '../native/load.js';
import { systemError } from './descriptor.js';
import { checkBytes } from './fd-passing.js';
import { checkPid } from './pid.js';

const WHO = 'readProcessMemory';
const SYSCALL = 'process_vm_readv';
const ADDRESSES = 2n ** 64n;
const { EFAULT, ENOMEM, ENOSYS, EPERM, ESRCH } = constants.errno;

function failure(pid: number, address: bigint, errno: number): Error {
  const what = `${WHO}: the memory of process ${pid} at 0x${address.toString(16)} cannot be read`;
  if (errno === EPERM) {
    const sentence = `${what}: the process belongs to another user, is not dumpable, or a security module (Yama: kernel.yama.ptrace_scope) forbids it; CAP_SYS_PTRACE allows it`;
    return new PermissionError(sentence, { errno, syscall: SYSCALL });
  }
  if (errno === ENOSYS) {
    const sentence = `${WHO}: this kernel has no process_vm_readv (CONFIG_CROSS_MEMORY_ATTACH), or a sandbox hides it`;
    return new UnsupportedError(sentence, undefined, [SYSCALL]);
  }
  const sentences: Record<number, string> = {
    [ESRCH]: 'there is no such process',
    [EFAULT]:
      'nothing is mapped there, or it is inaccessible, or the page is missing and its userfaultfd does not serve faults of the kernel',
    [ENOMEM]: 'the kernel has no memory for it',
  };
  return systemError(`${what}: ${sentences[errno] ?? 'it failed'}`, errno, SYSCALL);
}

/**
 * Reads memory of a process of the same user, or of any with CAP_SYS_PTRACE, without stopping it. A missing page of a userfaultfd that
 * serves faults of the kernel is paged in, and this thread waits for that: never read what this thread itself pages.
 *
 * @param into what is filled, from `address` on; at most 2147479552 bytes at once
 * @returns the bytes read, fewer than asked where the memory behind them cannot be read
 * @throws {PermissionError} the process may not be read
 * @throws {SystemError} no such process (ESRCH); the first byte cannot be read (EFAULT), also because its page is missing and its
 * userfaultfd is user-mode-only or reports by SIGBUS
 */
export function readProcessMemory(pid: number, address: bigint, into: Uint8Array): number {
  checkPid(WHO, pid);
  if (typeof address !== 'bigint') throw wrongType(`${WHO}: the address must be a bigint, not ${shown(address)}`);
  checkBytes(WHO, into);
  if (address < 0n || address + BigInt(into.length) > ADDRESSES) {
    throw outOfRange(`${WHO}: ${into.length} bytes at ${shown(address)} do not lie within 0 to 2^64`);
  }
  if (into.length === 0) return 0;
  const got = native().processRead(pid, address, into);
  if (got < 0) throw failure(pid, address, -got);
  return got;
}
