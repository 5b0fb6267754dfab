/** Laying other memory over a part of a mapping. Any thread. */

import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { systemPageSize } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { checkFd } from './descriptor.js';
import { checkPart, type Source, sourceOf } from './mapping-file.js';
import { MAP, mapMemory } from './mapping-make.js';
import { checkFlag, checkPages, type Protection, protectionBits } from './mapping-options.js';
import { Memfd } from './memfd.js';

/** What is laid over: a memory object, anything with a descriptor that can be mapped, or fresh private memory. */
export type PatchSource = Memfd | { readonly fd: number } | 'anonymous';

export interface PatchOptions {
  /** Where in the source it begins: whole pages. @default 0 */
  sourceOffset?: number;
  /** Whole pages. @default the rest of the source; for 'anonymous' the rest of the mapping */
  byteLength?: number;
  /** @default that of the mapping */
  protection?: Protection;
  /** @default true; false for 'anonymous' */
  shared?: boolean;
}

/** From a patch's offset to the mapping's end. */
export interface PatchTarget {
  address: bigint;
  byteLength: number;
  pageSize: number;
  offset: number;
  protection: Protection;
}

function checkSource(who: string, source: unknown): Source | 'anonymous' {
  if (source === 'anonymous') return source;
  if (source instanceof Memfd) return sourceOf(who, source.fd, 'the Memfd');
  if (typeof source === 'object' && source !== null && 'fd' in source) {
    const { fd } = source;
    checkFd(who, fd);
    return sourceOf(who, fd, `descriptor ${fd}`);
  }
  throw wrongType(
    `${who}: the source must be a Memfd, an object with a descriptor 'fd', or 'anonymous', not ${shown(source)}`,
  );
}

/** The patch's length in whole pages of both sides, and the offset in the source. */
function checkLengths(
  who: string,
  target: PatchTarget,
  source: Source | 'anonymous',
  options: PatchOptions,
): [number, number] {
  if (source === 'anonymous') {
    if (options.sourceOffset !== undefined) throw wrongType(`${who}: 'anonymous' memory has no sourceOffset`);
    const { byteLength = target.byteLength } = options;
    return [checkPages(who, 'byteLength', byteLength, target.pageSize, 1), 0];
  }
  const page = Math.max(source.pageSize, target.pageSize);
  const part = checkPart(who, source, { offset: 'sourceOffset' }, options.sourceOffset, options.byteLength);
  const length = options.byteLength === undefined ? Math.ceil(part.byteLength / page) * page : part.byteLength;
  return [checkPages(who, 'byteLength', length, page, 1), part.offset];
}

/** Maps over the target. Returns the patch's length. */
export function patchOver(who: string, target: PatchTarget, source: unknown, options: PatchOptions): number {
  checkKeys(who, options, ['sourceOffset', 'byteLength', 'protection', 'shared']);
  const bits = protectionBits(who, options.protection ?? target.protection);
  const from = checkSource(who, source);
  const shared = checkFlag(who, 'shared', options.shared, from !== 'anonymous');
  const [byteLength, offset] = checkLengths(who, target, from, options);
  const { address } = target;
  if (byteLength > target.byteLength) {
    throw outOfRange(
      `${who}: ${byteLength} bytes at offset ${target.offset} do not fit into the mapping, which has ${target.byteLength} left there`,
    );
  }
  const pageSize = from === 'anonymous' ? systemPageSize() : from.pageSize;
  if (address % BigInt(pageSize) !== 0n) {
    throw outOfRange(
      `${who}: offset ${target.offset} is at address 0x${address.toString(16)}, no multiple of the source's pages of ${pageSize} bytes`,
    );
  }
  // MAP_FIXED: it replaces what is there, and that is ours alone.
  const flags = MAP.fixed + (shared ? MAP.shared : MAP.private) + (from === 'anonymous' ? MAP.anonymous : 0);
  const fd = from === 'anonymous' ? -1 : from.fd;
  mapMemory(
    who,
    { address, byteLength, protection: bits, flags, fd, offset },
    pageSize > systemPageSize() ? pageSize : undefined,
  );
  return byteLength;
}
