/**
 * Bytes of a child's memory, by /proc/PID/mem: process_vm_readv(2) would wait for a page that is missing, that is, for whoever reads here.
 * The file belongs to the memory and not to the number: after an exec it is still the old one's. The pager's thread.
 */

import { closeSync, openSync, readSync } from 'node:fs';
import { constants } from 'node:os';
import { GuestError } from '../errors/guest-error.js';
import { pageSize } from '../kernel/range.js';

const { EIO, ENOENT, ESRCH } = constants.errno;
/** Bit 63 of an entry of /proc/PID/pagemap: in memory. The one for swap is set by marks of write protection too; from there a read would succeed. */
const IS_THERE = 0x80;
const ENTRY_BYTES = 8;

function errnoOf(error: unknown): number {
  return -((error as NodeJS.ErrnoException).errno ?? 0);
}

function everyPageOf({ byteLength }: Uint8Array): Set<number> {
  return new Set(Array.from({ length: byteLength / pageSize() }, (_, page) => page));
}

export class ChildMemory {
  readonly #pid: number;
  #fd = -1;

  constructor(pid: number) {
    this.#pid = pid;
  }

  /**
   * Fills `into` with what lies at `address`, both whole pages of the system, and returns the numbers of those that are missing. All of them are
   * when the process has ended.
   * @throws {GuestError} the child's memory may not be read
   */
  read(address: bigint, into: Uint8Array): Set<number> {
    const step = pageSize();
    const missing = new Set<number>();
    try {
      if (this.#fd < 0) this.#fd = openSync(`/proc/${this.#pid}/mem`, 'r');
      for (let at = 0; at < into.byteLength; ) {
        const got = this.#readAt(address + BigInt(at), into, at);
        if (got > 0) {
          at += got;
        } else {
          missing.add(at / step);
          at += step;
        }
      }
    } catch (error) {
      if ([ENOENT, ESRCH].includes(errnoOf(error))) return everyPageOf(into); // it is ending
      const { message } = error as Error;
      const sentence = `the memory of process ${this.#pid} cannot be read at 0x${address.toString(16)}: ${message}`;
      throw new GuestError('ERR_PAGEFAULT_GUEST_GONE', sentence, { pid: this.#pid, cause: error });
    }
    return missing;
  }

  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  /** Bytes read, or 0 for a page that is not there. */
  #readAt(address: bigint, into: Uint8Array, at: number): number {
    try {
      return readSync(this.#fd, into, at, into.byteLength - at, address);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === EIO && !this.#isThere(address)) return 0;
      throw error;
    }
  }

  #isThere(address: bigint): boolean {
    const entry = new Uint8Array(ENTRY_BYTES);
    const fd = openSync(`/proc/${this.#pid}/pagemap`, 'r');
    try {
      readSync(fd, entry, 0, ENTRY_BYTES, (address / BigInt(pageSize())) * BigInt(ENTRY_BYTES));
    } finally {
      closeSync(fd);
    }
    return ((entry[ENTRY_BYTES - 1] ?? 0) & IS_THERE) !== 0;
  }
}
