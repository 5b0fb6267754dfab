/**
 * What the next daemon must know of a guest to go on with it, as JSON: it comes from a process that is dead, perhaps of another version, so that all
 * of it is checked. Pure functions, any thread.
 */

import { SupervisorError } from '../../errors/supervisor-error.js';

const VERSION = 1;
const END_OF_ADDRESSES = 2n ** 64n;

export interface Described {
  readonly name: string;
  readonly regions: readonly { address: bigint; byteLength: number; offset: number }[];
  /** Bytes. */
  readonly pageSize: number;
  /** Identity of the snapshot: 64 hexadecimal digits. The pages of another one are not this guest's. */
  readonly snapshot: string;
  readonly onFailure: 'kill' | 'park';
  readonly faultTimeoutMs?: number | undefined;
  readonly record?: boolean | undefined;
}

/** Plain JSON. */
export function describeGuest(guest: Described): Record<string, unknown> {
  const { name, pageSize, snapshot, onFailure, faultTimeoutMs, record } = guest;
  const regions = guest.regions.map(({ address, byteLength, offset }) => ({
    address: `0x${address.toString(16)}`,
    byteLength,
    offset,
  }));
  return { version: VERSION, name, regions, pageSize, snapshot, onFailure, faultTimeoutMs, record };
}

function wrong(what: string): SupervisorError {
  return new SupervisorError(`the description of a guest that was handed over ${what}`);
}

function count(value: unknown, least: number): value is number {
  return Number.isSafeInteger(value) && Number(value) >= least;
}

function readRegion(value: unknown): { address: bigint; byteLength: number; offset: number } {
  if (typeof value !== 'object' || value === null) throw wrong('has a region that is no object');
  const { address, byteLength, offset } = value as Record<string, unknown>;
  if (typeof address !== 'string' || !/^0x[0-9a-f]{1,16}$/.test(address))
    throw wrong('has a region without an address');
  if (!count(byteLength, 1) || !count(offset, 0)) throw wrong('has a region without a size or an offset');
  if (BigInt(address) + BigInt(byteLength) > END_OF_ADDRESSES) throw wrong('has a region beyond the last address');
  return { address: BigInt(address), byteLength, offset };
}

/** @throws {SupervisorError} it is not of this version, or not whole */
export function readDescription(value: unknown): Described {
  if (typeof value !== 'object' || value === null) throw wrong('is no object');
  const described = value as Record<string, unknown>;
  if (described['version'] !== VERSION) throw wrong(`is of version ${String(described['version'])}, not ${VERSION}`);
  const { name, regions, pageSize, snapshot, onFailure, faultTimeoutMs, record } = described;
  if (typeof name !== 'string') throw wrong('has no name');
  if (!Array.isArray(regions) || regions.length === 0) throw wrong('has no regions');
  if (!count(pageSize, 4096) || !Number.isInteger(Math.log2(pageSize))) throw wrong('has no page size');
  if (typeof snapshot !== 'string' || !/^[0-9a-f]{64}$/.test(snapshot)) throw wrong('names no snapshot');
  if (onFailure !== 'kill' && onFailure !== 'park') throw wrong("says neither 'kill' nor 'park'");
  return {
    name,
    regions: regions.map(readRegion),
    pageSize,
    snapshot,
    onFailure,
    ...(count(faultTimeoutMs, 1) ? { faultTimeoutMs } : {}),
    ...(typeof record === 'boolean' ? { record } : {}),
  };
}
