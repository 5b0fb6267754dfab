/** The store `file`: a range of a regular file. The core reads it in the thread that faults. Any thread. */

import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import { outOfRange, shown, wrongType } from '../errors/argument.js';
import { checkKeys } from '../options/keys.js';
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

/**
 * Pages from a file. The path is resolved now, the file is opened by `map`.
 *
 * @example
 * const segment = await map(file('vectors.f32'), { resident: '256MiB' });
 */
export function file(path: string | URL, options: FileOptions = {}): FileRef {
  checkKeys('file()', options, ['offset', 'byteLength', 'onChange']);
  const { offset = 0, byteLength, onChange = 'fail' } = options;
  if (onChange !== 'fail' && onChange !== 'ignore') {
    throw wrongType(`file(): onChange must be 'fail' or 'ignore', not ${shown(onChange)}`);
  }
  return Object.freeze({
    kind: 'file',
    path: filePath(path),
    offset: count('offset', offset, 0),
    byteLength: byteLength === undefined ? undefined : count('byteLength', byteLength, 1),
    onChange,
  });
}
