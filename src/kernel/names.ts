/** The names of userfaultfd's features, ioctls and modes, and their bits. Plain data. */

import { shown, wrongType } from '../errors/argument.js';
import { nearest } from '../options/keys.js';
import { FlagSet } from './flags.js';

/**
 * What a userfaultfd can be asked for in its handshake, with the version it appeared in:
 * `pagefault-flag-wp` (5.7), `event-fork` (4.11, needs CAP_SYS_PTRACE), `event-remap`, `event-remove`, `missing-hugetlbfs`, `missing-shmem`,
 * `event-unmap` (4.11), `sigbus`, `thread-id` (4.14), `minor-hugetlbfs` (5.13), `minor-shmem` (5.14), `exact-address` (5.18),
 * `wp-hugetlbfs-shmem` (5.19), `wp-unpopulated` (6.4), `poison` (6.6), `wp-async` (6.7), `move` (6.8).
 */
export type UffdFeature =
  | 'pagefault-flag-wp'
  | 'event-fork'
  | 'event-remap'
  | 'event-remove'
  | 'missing-hugetlbfs'
  | 'missing-shmem'
  | 'event-unmap'
  | 'sigbus'
  | 'thread-id'
  | 'minor-hugetlbfs'
  | 'minor-shmem'
  | 'exact-address'
  | 'wp-hugetlbfs-shmem'
  | 'wp-unpopulated'
  | 'poison'
  | 'wp-async'
  | 'move';

/** What can be done with a userfaultfd (`api`, `register`, `unregister`) and with a registered range (the others). */
export type UffdIoctl =
  | 'register'
  | 'unregister'
  | 'wake'
  | 'copy'
  | 'zeropage'
  | 'move'
  | 'writeprotect'
  | 'continue'
  | 'poison'
  | 'api';

/** Which faults of a range are reported: pages that are not there, writes to protected ones (5.7), pages that the file has and the page table not (5.13). */
export type UffdMode = 'missing' | 'write-protect' | 'minor';

/** The name of each bit, from bit 0. */
export type BitNames<Name extends string> = readonly (Name | undefined)[];

export const FEATURES: BitNames<UffdFeature> = [
  'pagefault-flag-wp',
  'event-fork',
  'event-remap',
  'event-remove',
  'missing-hugetlbfs',
  'missing-shmem',
  'event-unmap',
  'sigbus',
  'thread-id',
  'minor-hugetlbfs',
  'minor-shmem',
  'exact-address',
  'wp-hugetlbfs-shmem',
  'wp-unpopulated',
  'poison',
  'wp-async',
  'move',
];

const API_BIT = 0x3f;
const RANGE_IOCTLS = [
  'register',
  'unregister',
  'wake',
  'copy',
  'zeropage',
  'move',
  'writeprotect',
  'continue',
  'poison',
] as const;
export const IOCTLS: BitNames<UffdIoctl> = Array.from({ length: API_BIT + 1 }, (_, bit) =>
  bit === API_BIT ? 'api' : RANGE_IOCTLS[bit],
);

export const MODES: BitNames<UffdMode> = ['missing', 'write-protect', 'minor'];

/** Names of the bits, and unknown bits as one hexadecimal number: for `missing` of an error. */
export function namesOf(bits: bigint, table: BitNames<string>): string[] {
  const { names, unknown } = new FlagSet(bits, table);
  return unknown === 0n ? [...names] : [...names, `0x${unknown.toString(16)}`];
}

export const EVENT_FORK: bigint = 1n << 1n;
export const THREAD_ID: bigint = 1n << 8n;
export const WP_UNPOPULATED: bigint = 1n << 13n;
export const WP_ASYNC: bigint = 1n << 15n;

const ALL_BITS = (1n << 64n) - 1n;

/** Bits for names, or for bits. `what` is a noun with its place, for the sentence. Throws a TypeError for what is no such name. */
export function toBits<Name extends string>(what: string, given: unknown, table: BitNames<Name>): bigint {
  if (typeof given === 'bigint' && given >= 0n && given <= ALL_BITS) return given;
  const names: unknown = typeof given === 'string' ? [given] : given;
  const known = table.filter((name) => name !== undefined);
  if (!Array.isArray(names)) throw wrongType(`${what} must be an array of names, not ${shown(given)}`);
  let bits = 0n;
  for (const name of names as unknown[]) {
    const bit = table.findIndex((candidate) => candidate !== undefined && candidate === name);
    if (bit < 0) {
      const meant = typeof name === 'string' ? nearest(name, known) : undefined;
      const hint = meant === undefined ? `known are ${known.join(', ')}` : `did you mean '${meant}'?`;
      throw wrongType(`${what}: there is no ${shown(name)}; ${hint}`);
    }
    bits |= 1n << BigInt(bit);
  }
  return bits;
}
