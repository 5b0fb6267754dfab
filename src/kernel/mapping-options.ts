/** What the options of mappings may be, and the kernel's numbers for them. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';

/** What the processor lets this process do with pages. Anything else ends the process with SIGSEGV. */
export type Protection = 'none' | 'read' | 'read-write' | 'read-execute' | 'read-write-execute';

const PROTECTIONS: Readonly<Record<Protection, number>> = {
  none: 0,
  read: 1,
  'read-write': 3,
  'read-execute': 5,
  'read-write-execute': 7,
};

/** What madvise(2) may be told. The version is that of the kernel that has it first, where that is later than 2.6. */
export type Advice =
  | 'normal'
  | 'random'
  | 'sequential'
  | 'willneed'
  /** Drops the pages: private anonymous memory reads zero then (and is missing to a userfaultfd), a file's comes from the file again. */
  | 'dontneed'
  /** 4.5. The kernel may drop the pages later, until they are written again. */
  | 'free'
  /** Drops the pages of shared memory from the object itself, for everyone. */
  | 'remove'
  | 'dontfork'
  | 'dofork'
  | 'hugepage'
  | 'nohugepage'
  | 'dontdump'
  | 'dodump'
  /** 5.14. Makes the pages present for reading. */
  | 'populate-read'
  /** 5.14. Makes the pages present for writing. */
  | 'populate-write'
  /** 6.1. Puts huge pages where small ones are. */
  | 'collapse'
  /** 5.4. */
  | 'cold'
  /** 5.4. */
  | 'pageout'
  /** Needs CONFIG_KSM. */
  | 'mergeable'
  | 'unmergeable'
  /** 4.14. Private anonymous memory: a forked child sees zeroes. */
  | 'wipeonfork'
  | 'keeponfork';

const ADVICE: Readonly<Record<Advice, number>> = {
  normal: 0,
  random: 1,
  sequential: 2,
  willneed: 3,
  dontneed: 4,
  free: 8,
  remove: 9,
  dontfork: 10,
  dofork: 11,
  mergeable: 12,
  unmergeable: 13,
  hugepage: 14,
  nohugepage: 15,
  dontdump: 16,
  dodump: 17,
  wipeonfork: 18,
  keeponfork: 19,
  cold: 20,
  pageout: 21,
  'populate-read': 22,
  'populate-write': 23,
  collapse: 25,
};

function oneOf<Name extends string>(what: string, value: unknown, table: Readonly<Record<Name, number>>): number {
  if (typeof value === 'string' && Object.hasOwn(table, value)) return table[value as Name];
  const known = Object.keys(table).map((name) => `'${name}'`);
  throw wrongType(`${what} must be one of ${known.join(', ')}, not ${shown(value)}`);
}

/** The kernel's bits for a protection. */
export function protectionBits(who: string, protection: unknown): number {
  return oneOf(`${who}: protection`, protection, PROTECTIONS);
}

/** The kernel's number for an advice. */
export function adviceNumber(who: string, advice: unknown): number {
  return oneOf(`${who}: advice`, advice, ADVICE);
}

/** A flag that is true or false, with its default. */
export function checkFlag(who: string, name: string, value: unknown, usual: boolean): boolean {
  if (value === undefined) return usual;
  if (typeof value === 'boolean') return value;
  throw wrongType(`${who}: ${name} must be true or false, not ${shown(value)}`);
}

/** A whole number of bytes in [least, 2^53). */
export function checkBytes(who: string, name: string, value: unknown, least: 0 | 1): number {
  if (typeof value !== 'number') throw wrongType(`${who}: ${name} must be a number of bytes, not ${shown(value)}`);
  if (!Number.isSafeInteger(value) || value < least) {
    throw outOfRange(`${who}: ${name} must be a whole number of bytes from ${least} to 2^53 - 1, not ${value}`);
  }
  return value;
}

/** A number of bytes that comes in whole pages. */
export function checkPages(who: string, name: string, value: unknown, pageSize: number, least: 0 | 1): number {
  const bytes = checkBytes(who, name, value, least);
  if (bytes % pageSize === 0) return bytes;
  const next = Math.ceil(bytes / pageSize) * pageSize;
  throw outOfRange(
    `${who}: ${name} ${bytes} is no multiple of the page size, ${pageSize} bytes; the next one is ${next}`,
  );
}

/** An address to map at: whole pages, not 0, below 2^64 with its length. */
export function checkAddress(who: string, address: unknown, byteLength: number, pageSize: number): bigint {
  if (typeof address !== 'bigint') throw wrongType(`${who}: address must be a bigint, not ${shown(address)}`);
  if (address <= 0n || address + BigInt(byteLength) > 1n << 64n) {
    const code = address === 0n ? 'ERR_PAGEFAULT_NULL_BASE' : undefined;
    throw outOfRange(`${who}: address must be above 0 and its range end below 2^64, not ${address}n`, code);
  }
  if (address % BigInt(pageSize) === 0n) return address;
  throw outOfRange(
    `${who}: address 0x${address.toString(16)} is no multiple of the page size, ${pageSize} bytes`,
    'ERR_PAGEFAULT_BASE_NOT_ALIGNED',
  );
}
