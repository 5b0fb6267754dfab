/** The store `file`: a range of a regular file. The core reads it in the thread that faults, and writes it. Any thread. */

import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { checkKeys } from '../options/keys.js';
import { parseSize, type Size } from '../options/sizes.js';
import type { FileRef } from './ref.js';

export interface FileOptions {
  /**
   * Where the store begins in the file, in bytes.
   * @default 0
   */
  offset?: number;
  /** Bytes of the store; default up to the end of the file. */
  byteLength?: number;
  /**
   * What happens when the file is truncated, written to or replaced while it is mapped: `'fail'` fails the pages that
   * are read after that, `'ignore'` takes what the file has then.
   * @default 'fail'
   */
  onChange?: 'fail' | 'ignore';
  /**
   * Makes a file of this many bytes, in bytes or as '64MiB', where there is none or an empty one: all zero, and without
   * blocks on the disk until they are written. Needs `writable: true`. Default: a file that is missing is an error.
   */
  create?: Size;
}

function filePath(path: string | URL): string {
  if (path instanceof URL) {
    if (path.protocol !== 'file:') throw wrongType(`file(): the URL must be a file: URL; this is ${path.protocol}`);
    return fileURLToPath(path);
  }
  if (typeof path !== 'string') throw wrongType(`file(): the path must be a string or a file: URL, not ${shown(path)}`);
  if (path === '') throw wrongType('file(): the path is empty');
  if (path.includes('\0')) throw wrongType('file(): the path contains a null byte');
  return path.startsWith('file:') ? fileURLToPath(path) : resolve(path);
}

function count(name: string, value: unknown, least: number): number {
  if (typeof value !== 'number') throw wrongType(`file(): ${name} must be a number of bytes, not ${shown(value)}`);
  if (!Number.isSafeInteger(value) || value < least) {
    throw outOfRange(`file(): ${name} must be a whole number of bytes from ${least} to 2^53 - 1, not ${value}`);
  }
  return value;
}

/** The length of a file that is to be made. Throws where the store would not fit into it. */
function createdLength(create: unknown, offset: number, byteLength: number | undefined): number {
  const length = parseSize('file(): create', create as Size);
  const needed = offset + (byteLength ?? 1);
  if (length >= needed) return length;
  throw outOfRange(
    `file(): create makes a file of ${length} bytes, and offset and byteLength need ${needed} bytes at least`,
  );
}

/**
 * Pages from a file. The path is resolved now, the file is opened by `map`.
 *
 * @example
 * const segment = await map(file('vectors.f32'), { resident: '256MiB' });
 */
export function file(path: string | URL, options: FileOptions = {}): FileRef {
  checkKeys('file()', options, ['offset', 'byteLength', 'onChange', 'create']);
  const { onChange = 'fail', create } = options;
  if (onChange !== 'fail' && onChange !== 'ignore') {
    throw wrongType(`file(): onChange must be 'fail' or 'ignore', not ${shown(onChange)}`);
  }
  const offset = count('offset', options.offset ?? 0, 0);
  const byteLength = options.byteLength === undefined ? undefined : count('byteLength', options.byteLength, 1);
  return Object.freeze({
    kind: 'file',
    path: filePath(path),
    offset,
    byteLength,
    onChange,
    create: create === undefined ? undefined : createdLength(create, offset, byteLength),
  });
}
