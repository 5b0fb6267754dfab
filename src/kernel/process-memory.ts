/** The memory of other processes, read without stopping them. Any thread. */

import { constants } from 'node:os';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { PermissionError } from '../errors/permission-error.js';
import { native } from '../native/load.js';
import { systemError } from './descriptor.js';

const { EFAULT, EPERM, ESRCH } = constants.errno;

/**
 * Copies memory of a process, of this one too: process_vm_readv(2), 3.2. Nothing stops the process, so that what it writes meanwhile may be
 * in the copy in part. A page that a userfaultfd has to bring is waited for where that serves kernel-mode faults, and is EFAULT
 * where it does not.
 *
 * Privilege: what ptrace(2) asks for: the same user and a dumpable process, or CAP_SYS_PTRACE; Yama may allow only descendants.
 *
 * @returns bytes copied; fewer than `into` has where a page behind them cannot be read
 * @throws {PermissionError} the process may not be looked into (EPERM)
 * @throws {SystemError} no such process (ESRCH), nothing readable at the address (EFAULT)
 */
export function readProcessMemory(pid: number, address: bigint, into: Uint8Array): number {
  if (!Number.isSafeInteger(pid) || pid <= 0 || pid >= 2 ** 31) {
    throw outOfRange(`readProcessMemory: the process id must be a whole number from 1 to 2^31 - 1, not ${shown(pid)}`);
  }
  if (typeof address !== 'bigint' || address < 0n || address >= 2n ** 64n) {
    throw wrongType(`readProcessMemory: the address must be a bigint from 0 to 2^64 - 1, not ${shown(address)}`);
  }
  if (!(into instanceof Uint8Array))
    throw wrongType(`readProcessMemory: into must be a Uint8Array, not ${shown(into)}`);
  const got = native().processRead(pid, address, into);
  if (got >= 0) return got;
  const where = `0x${address.toString(16)} of process ${pid}`;
  if (got === -EPERM) {
    throw new PermissionError(
      `the memory of process ${pid} may not be read: that needs the same user, a dumpable process and what Yama (kernel.yama.ptrace_scope) allows, or CAP_SYS_PTRACE`,
      { errno: EPERM, syscall: 'process_vm_readv' },
    );
  }
  const why =
    got === -ESRCH
      ? `there is no process ${pid}`
      : got === -EFAULT
        ? `nothing can be read at ${where}: not mapped, not readable, or a page that a userfaultfd brings to user mode only`
        : `${where} cannot be read`;
  throw systemError(why, -got, 'process_vm_readv');
}
