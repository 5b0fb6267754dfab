/** Mapping files and memory objects: what can be mapped, how much of it there is, and how it is opened. Any thread. */

import { closeSync, constants, fstatSync, openSync, type Stats } from 'node:fs';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { DescriptorError } from '../errors/descriptor-error.js';
import { native, systemPageSize } from '../native/load.js';
import { checkKeys } from '../options/keys.js';
import { checkFd } from './descriptor.js';
import { MAP, type Mapped, mapMemory, unmapMemory } from './mapping-make.js';
import { checkAddress, checkBytes, checkFlag, checkPages, type Protection, protectionBits } from './mapping-options.js';
import { Memfd } from './memfd.js';
import { fromFs } from './refusal.js';

export interface FileOptions {
  /** Where in the file the mapping begins: a multiple of the page size. @default 0 */
  offset?: number;
  /** @default the rest of the file */
  byteLength?: number;
  /** @default 'read' for files, 'read-write' for memory objects */
  protection?: Protection;
  /** Writes go to the file and are seen by all who map it. false: they stay in this mapping. @default true */
  shared?: boolean;
  /** Exactly there, and never over something that is mapped. @default the kernel chooses */
  address?: bigint;
  /** Makes the pages present at once. @default false */
  populate?: boolean;
}

/** What can be mapped of a descriptor. */
export interface Source {
  fd: number;
  /** Bytes it has; undefined for a device, whose size nobody knows. */
  size: number | undefined;
  pageSize: number;
  /** For sentences. */
  name: string;
}

function kindOf(stats: Stats): string | undefined {
  if (stats.isDirectory()) return 'a directory';
  if (stats.isFIFO()) return 'a pipe';
  if (stats.isSocket()) return 'a socket';
  return undefined;
}

/** Looks at a descriptor. @throws DescriptorError, SystemError EBADF. */
export function sourceOf(who: string, fd: number, name: string): Source {
  const stats = fromFs(`${who}: ${name} cannot be looked at`, () => fstatSync(fd));
  const kind = kindOf(stats);
  if (kind !== undefined) {
    throw new DescriptorError('ERR_PAGEFAULT_WRONG_DESCRIPTOR', `${who}: ${name} is ${kind} and cannot be mapped`);
  }
  const huge = native().memfdHugePageSize(fd);
  return { fd, size: stats.isFile() ? stats.size : undefined, pageSize: huge > 0 ? huge : systemPageSize(), name };
}

/** The part of the source that is asked for: it must exist, because touching what is behind a file's end ends the process. */
export function checkPart(
  who: string,
  source: Source,
  names: { offset: string },
  offset: unknown,
  byteLength: unknown,
): { offset: number; byteLength: number } {
  const { size, name, pageSize } = source;
  const from = checkPages(who, names.offset, offset ?? 0, pageSize, 0);
  if (size === undefined) {
    if (byteLength !== undefined) return { offset: from, byteLength: checkBytes(who, 'byteLength', byteLength, 1) };
    throw outOfRange(`${who}: ${name} is a device, whose size is not known: give byteLength`);
  }
  if (size === 0) throw outOfRange(`${who}: ${name} is empty, there is nothing to map`);
  if (from >= size) throw outOfRange(`${who}: ${names.offset} ${from} is not below the ${size} bytes of ${name}`);
  const length = byteLength === undefined ? size - from : checkBytes(who, 'byteLength', byteLength, 1);
  if (length > size - from) {
    throw outOfRange(
      `${who}: byteLength ${length} is more than the ${size - from} bytes that ${name} has from ${names.offset} ${from}`,
    );
  }
  return { offset: from, byteLength: length };
}

const KEYS = ['offset', 'byteLength', 'protection', 'shared', 'address', 'populate'];

function mapSource(who: string, source: Source, options: FileOptions, usual: Protection): Omit<Mapped, 'kind'> {
  const { protection = usual } = options;
  const bits = protectionBits(who, protection);
  const { offset, byteLength } = checkPart(who, source, { offset: 'offset' }, options.offset, options.byteLength);
  const { pageSize } = source;
  let flags: number = checkFlag(who, 'shared', options.shared, true) ? MAP.shared : MAP.private;
  if (checkFlag(who, 'populate', options.populate, false)) flags += MAP.populate;
  if (options.address !== undefined) flags += MAP.fixedNoReplace;
  const whole = Math.ceil(byteLength / pageSize) * pageSize;
  const at = options.address === undefined ? 0n : checkAddress(who, options.address, whole, pageSize);
  const huge = pageSize > systemPageSize() ? pageSize : undefined;
  const call = { address: at, byteLength: whole, protection: bits, flags, fd: source.fd, offset };
  const address = mapMemory(who, call, huge);
  return { address, byteLength, pageSize, protection, inherited: true, release: unmapMemory };
}

/** A file, by path or descriptor. */
export function mapFile(who: string, file: unknown, options: FileOptions): Mapped {
  checkKeys(who, options, KEYS);
  if (typeof file !== 'string') {
    checkFd(who, file);
    return { ...mapSource(who, sourceOf(who, file, `descriptor ${file}`), options, 'read'), kind: 'file' };
  }
  if (file === '' || file.includes('\0')) throw wrongType(`${who}: ${shown(file)} is no path`);
  const writes = (protectionBits(who, options.protection ?? 'read') & 2) !== 0 && options.shared !== false;
  // Without O_NONBLOCK the opening of a pipe waits for its other end.
  const mode = (writes ? constants.O_RDWR : constants.O_RDONLY) + constants.O_NONBLOCK;
  const fd = fromFs(`${who}: ${shown(file)} cannot be opened`, () => openSync(file, mode));
  try {
    return { ...mapSource(who, sourceOf(who, fd, shown(file)), options, 'read'), kind: 'file' };
  } finally {
    closeSync(fd);
  }
}

/** A memory object. */
export function mapMemfd(who: string, memfd: unknown, options: FileOptions): Mapped {
  checkKeys(who, options, KEYS);
  if (!(memfd instanceof Memfd)) throw wrongType(`${who}: needs a Memfd, not ${shown(memfd)}`);
  return { ...mapSource(who, sourceOf(who, memfd.fd, 'the Memfd'), options, 'read-write'), kind: 'memfd' };
}
