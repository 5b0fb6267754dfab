/**
 * What a handshake of Firecracker says: the regions of guest memory and the size of their pages, in the words of every release since 1.1. Whether it can
 * be true is checked here, before anything is done with it. Any thread.
 */

import { shown } from '../../errors/argument.js';
import { formatSize } from '../../options/sizes.js';
import { Refused } from './reader.js';

/** One mapping of the VM: `byteLength` bytes at `address` of its process are the memory file's from `offset` on. */
export interface Region {
  readonly address: bigint;
  readonly byteLength: number;
  readonly offset: number;
}

/** What was understood. */
export interface Handshake {
  readonly regions: readonly Region[];
  readonly pageSize: number;
  /**
   * The first release that says it in this way: `1.1` has no page size, `1.7` has it as `page_size_kib`, in bytes all the same, `1.12` as `page_size`, and
   * from there on the connection stays open as long as the VM lives.
   */
  readonly era: '1.1' | '1.7' | '1.12';
}

/** x86-64 has three of them and one of hot-plugged memory, aarch64 two. */
const MOST_REGIONS = 1024;
const FIRST_PAGE_SIZE = 4096;
export const HUGE_PAGE: number = 2 * 2 ** 20;
/** Of user memory, on every architecture. */
const END_OF_ADDRESSES = 2n ** 56n;

/** Understands a handshake, as far as it can be without the snapshot. */
export function parseHandshake(text: string, systemPage: number): Handshake {
  const elements = arrayOf(text);
  if (elements.length === 0) throw new Refused('it names no region');
  if (elements.length > MOST_REGIONS)
    throw new Refused(`it names ${elements.length} regions, more than ${MOST_REGIONS}`);
  const objects = elements.map(objectOf);
  const first = objects[0] ?? {};
  const pageSize = pageSizeOf(first, 0);
  const regions = objects.map((object, index) => {
    if (object['is_guest_memfd'] === true) {
      throw new Refused('its memory is secret (guest_memfd), which cannot be served yet');
    }
    const own = pageSizeOf(object, index);
    if (own !== pageSize) throw new Refused(`region 0 has pages of ${pageSize} bytes, region ${index} of ${own}`);
    return regionOf(object, index);
  });
  if (pageSize !== systemPage && pageSize !== HUGE_PAGE) {
    throw new Refused(`its pages have ${pageSize} bytes, and only ${systemPage} and ${HUGE_PAGE} can be served`);
  }
  checkPlaces(regions, pageSize);
  const era = 'page_size' in first ? '1.12' : 'page_size_kib' in first ? '1.7' : '1.1';
  return { regions, pageSize, era };
}

/** The regions are all of the snapshot, once. */
export function checkAgainst(handshake: Handshake, snapshotLength: number): void {
  let end = 0;
  const regions = [...handshake.regions].sort((a, b) => a.offset - b.offset);
  for (const region of regions) {
    if (region.offset !== end) {
      const what = region.offset < end ? 'twice' : 'not at all';
      const [from, to] = region.offset < end ? [region.offset, end] : [end, region.offset];
      throw new Refused(`its regions do not sum up: bytes ${from} to ${to} of the memory file are in them ${what}`);
    }
    end += region.byteLength;
  }
  if (end === snapshotLength) return;
  const sizes = `its regions have ${formatSize(end)}, the memory file ${formatSize(snapshotLength)}`;
  throw new Refused(end > snapshotLength ? `${sizes}: the file is too short` : `${sizes}: it is another VM's`);
}

function arrayOf(text: string): unknown[] {
  try {
    return JSON.parse(text) as unknown[];
  } catch (error) {
    throw new Refused('it is no JSON', { cause: error });
  }
}

function objectOf(value: unknown, index: number): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw new Refused(`region ${index} is ${shown(value)}, not an object`);
}

/** Despite its name `page_size_kib` is in bytes, in every release. */
function pageSizeOf(object: Readonly<Record<string, unknown>>, index: number): number {
  for (const key of ['page_size', 'page_size_kib'] as const) {
    if (Object.hasOwn(object, key)) return countOf(object, key, index, 1);
  }
  return FIRST_PAGE_SIZE;
}

function countOf(object: Readonly<Record<string, unknown>>, key: string, index: number, least: number): number {
  if (!Object.hasOwn(object, key)) throw new Refused(`region ${index} has no ${key}`);
  const value = object[key];
  if (typeof value === 'number' && Number.isSafeInteger(value) && value >= least) return value;
  throw new Refused(`${key} of region ${index} is ${shown(value)}, not a whole number from ${least} to 2^53 - 1`);
}

function regionOf(object: Readonly<Record<string, unknown>>, index: number): Region {
  return {
    address: BigInt(countOf(object, 'base_host_virt_addr', index, 1)),
    byteLength: countOf(object, 'size', index, 1),
    offset: countOf(object, 'offset', index, 0),
  };
}

function checkPlaces(regions: readonly Region[], pageSize: number): void {
  for (const [index, { address, byteLength, offset }] of regions.entries()) {
    const odd = [byteLength, offset].some((count) => count % pageSize !== 0) || address % BigInt(pageSize) !== 0n;
    const where = `${byteLength} bytes at 0x${address.toString(16)}, from byte ${offset} of the memory file`;
    if (odd) throw new Refused(`region ${index} is not aligned to pages of ${pageSize} bytes: ${where}`);
    if (address + BigInt(byteLength) > END_OF_ADDRESSES || !Number.isSafeInteger(offset + byteLength)) {
      throw new Refused(`region ${index} ends where no memory can be: ${where}`);
    }
  }
  const places = [...regions.entries()].sort(([, a], [, b]) => (a.address < b.address ? -1 : 1));
  for (const [at, [index, region]] of places.entries()) {
    const before = places[at - 1];
    if (before === undefined || before[1].address + BigInt(before[1].byteLength) <= region.address) continue;
    throw new Refused(`regions ${before[0]} and ${index} overlap at 0x${region.address.toString(16)}`);
  }
}
