/** Working sets on disk. A file appears whole, or not at all. Any thread. */

import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { access, type FileHandle, open, rename, rm, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { reasonOf } from '../../errors/reason.js';
import { WorkingSetError } from '../../errors/working-set-error.js';
import { formatSize } from '../../options/sizes.js';
import { decodeWorkingSet, encodeWorkingSet, LARGEST_FILE } from './format.js';
import type { WorkingSet } from './working-set.js';

function cannot(path: string, what: string, error: unknown): WorkingSetError {
  const { errno, syscall, code } = error as NodeJS.ErrnoException;
  const why = code === 'ENOENT' ? 'there is no such file or directory (ENOENT)' : reasonOf(error);
  return new WorkingSetError('ERR_PAGEFAULT_WORKING_SET', `the working set ${path} cannot be ${what}: ${why}`, {
    path,
    cause: error,
    errno: errno === undefined ? undefined : Math.abs(errno),
    syscall,
  });
}

async function readAll(file: FileHandle, path: string): Promise<Buffer> {
  const stats = await file.stat();
  const refuse = (sentence: string): never => {
    throw new WorkingSetError('ERR_PAGEFAULT_WORKING_SET', `${path} is not a working set: ${sentence}`, { path });
  };
  if (!stats.isFile()) refuse('it is not a regular file');
  if (stats.size > LARGEST_FILE) refuse(`it has ${stats.size} bytes, and ${formatSize(LARGEST_FILE)} are the most`);
  return await file.readFile();
}

/**
 * Reads and checks a working set. Rejects with a WorkingSetError: `ERR_PAGEFAULT_WORKING_SET` where there is none, or something else;
 * `ERR_PAGEFAULT_WORKING_SET_DAMAGED` where it is cut off, was changed, or has pages out of range. Whether it is of the snapshot at hand says `distrust`.
 *
 * @example
 * const set = await readWorkingSet('vm.ws');
 */
export async function readWorkingSet(path: string): Promise<WorkingSet> {
  let bytes: Buffer;
  try {
    // Not blocking, because opening a pipe would wait for its other end.
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      bytes = await readAll(file, path);
    } finally {
      await file.close();
    }
  } catch (error) {
    throw error instanceof WorkingSetError ? error : cannot(path, 'read', error);
  }
  return decodeWorkingSet(bytes, path);
}

/** Rejects with a WorkingSetError where nothing can be written beside `path`. Somebody may remove the folder later. */
export async function checkWritable(path: string): Promise<void> {
  try {
    await access(`${dirname(path)}/`, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw cannot(path, 'written', error);
  }
}

/**
 * Writes a working set: beside `path` first, which it then takes the place of in one step, whatever was there. Rejects with a WorkingSetError, also where it makes no sense; what was
 * there is there still then. It is not synced: what a power failure makes of it is found to be damaged, and recorded again.
 */
export async function writeWorkingSet(path: string, set: WorkingSet): Promise<void> {
  const bytes = encodeWorkingSet(set);
  decodeWorkingSet(bytes, path); // nobody could use what makes no sense
  const beside = `${path}.${process.pid}-${randomBytes(4).toString('hex')}`;
  try {
    await writeFile(beside, bytes, { flag: 'wx' });
    await rename(beside, path);
  } catch (error) {
    await rm(beside, { force: true }).catch(() => {}); // the first error is the one to tell
    throw cannot(path, 'written', error);
  }
}
