/** `fs` with paged memory. */

import fs from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { finished } from 'node:stream/promises';
import { temporaryPath } from '../../helpers/stores.js';
import { type Act, type Call, call, calledBack, filling } from './call.js';

const SOURCE = new Uint8Array(1 << 20).map((_, i) => i * 5 + (i >> 8));

/** What a new file has after something was written to it. */
function written(write: (fd: number, bytes: Uint8Array<ArrayBuffer>) => unknown): Act {
  return async (bytes) => {
    const fd = fs.openSync(temporaryPath(), 'w+');
    try {
      await write(fd, bytes);
      return fs.readFileSync(`/proc/self/fd/${fd}`);
    } finally {
      fs.closeSync(fd);
    }
  };
}

function onHandle(path: string, flags: string, use: (handle: FileHandle) => Promise<unknown>): Promise<unknown> {
  return open(path, flags).then(async (handle) => {
    try {
      return await use(handle);
    } finally {
      await handle.close();
    }
  });
}

function writtenByHandle(write: (handle: FileHandle, bytes: Uint8Array<ArrayBuffer>) => Promise<unknown>): Act {
  return async (bytes) => {
    const path = temporaryPath();
    await onHandle(path, 'w', (handle) => write(handle, bytes));
    return fs.readFileSync(path);
  };
}

/** Something that writes a whole file. */
function file(write: (path: string, bytes: Uint8Array<ArrayBuffer>) => unknown): Act {
  return async (bytes) => {
    const path = temporaryPath();
    await write(path, bytes);
    return fs.readFileSync(path);
  };
}

function sourcePath(): string {
  const path = temporaryPath();
  fs.writeFileSync(path, SOURCE);
  return path;
}

function read(readInto: (fd: number, bytes: Uint8Array<ArrayBuffer>) => unknown): Act {
  return async (bytes) => {
    const fd = fs.openSync(sourcePath(), 'r');
    try {
      await readInto(fd, bytes);
    } finally {
      fs.closeSync(fd);
    }
  };
}

export const WRITES: readonly Call[] = [
  call(
    '`fs.writeSync`',
    written((fd, bytes) => fs.writeSync(fd, bytes)),
  ),
  call(
    '`fs.write`',
    written((fd, bytes) => calledBack((done) => fs.write(fd, bytes, done))),
  ),
  call(
    '`fileHandle.write`',
    writtenByHandle((handle, bytes) => handle.write(bytes)),
  ),
  call(
    '`fs.writevSync`',
    written((fd, bytes) => fs.writevSync(fd, [bytes.subarray(0, 9), bytes.subarray(9)])),
  ),
  call(
    '`fs.writev`',
    written((fd, bytes) => calledBack((done) => fs.writev(fd, [bytes], done))),
  ),
  call(
    '`fileHandle.writev`',
    writtenByHandle((handle, bytes) => handle.writev([bytes])),
  ),
];

export const WHOLE_FILES: readonly Call[] = [
  call(
    '`fs.writeFileSync`',
    file((path, bytes) => fs.writeFileSync(path, bytes)),
  ),
  call(
    '`fs.writeFile`',
    file((path, bytes) => calledBack((done) => fs.writeFile(path, bytes, (error) => done(error, undefined)))),
  ),
  call(
    '`fs.promises.writeFile`',
    file((path, bytes) => fs.promises.writeFile(path, bytes)),
  ),
  call(
    '`fs.appendFileSync`',
    file((path, bytes) => fs.appendFileSync(path, bytes)),
  ),
  call(
    '`fs.createWriteStream`',
    file(async (path, bytes) => {
      const stream = fs.createWriteStream(path);
      stream.end(bytes);
      await finished(stream);
    }),
  ),
];

export const READS: readonly Call[] = [
  filling(
    '`fs.readSync`',
    read((fd, bytes) => fs.readSync(fd, bytes)),
  ),
  filling(
    '`fs.read`',
    read((fd, bytes) => calledBack((done) => fs.read(fd, bytes, 0, bytes.length, 0, done))),
  ),
  filling('`fileHandle.read`', (bytes) =>
    onHandle(sourcePath(), 'r', (handle) => handle.read(bytes).then(() => undefined)),
  ),
  filling(
    '`fs.readvSync`',
    read((fd, bytes) => fs.readvSync(fd, [bytes.subarray(0, 9), bytes.subarray(9)])),
  ),
  filling(
    '`fs.readv`',
    read((fd, bytes) => calledBack((done) => fs.readv(fd, [bytes], done))),
  ),
  filling('`fileHandle.readv`', (bytes) =>
    onHandle(sourcePath(), 'r', (handle) => handle.readv([bytes]).then(() => undefined)),
  ),
];
