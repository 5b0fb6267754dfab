// What the figures of writable segments share: a file of their own in the directory of the one that all figures read, the loop that writes, and
// the proof that what was written is in the file.
import { closeSync, fdatasyncSync, ftruncateSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { PAGE } from './touch.js';

/** Words of four bytes in a page. */
const WORDS = PAGE / 4;

/**
 * Removed when the process ends.
 * @typedef {{ path: string, fd: number, byteLength: number }} OwnFile
 */

/**
 * A file of zeroes: its blocks are allocated and on the disk, its pages in the page cache; or, sparse, all of it one hole.
 * @param {import('./context.js').Context} context
 * @param {{ pages: number, sparse?: boolean }} options
 * @returns {OwnFile}
 */
export function ownFile(context, { pages, sparse = false }) {
  const path = join(dirname(context.path), `written-${process.pid}`);
  const fd = openSync(path, 'w+', 0o600);
  process.once('exit', () => {
    closeSync(fd);
    rmSync(path, { force: true });
  });
  const byteLength = pages * PAGE;
  const zeroes = new Uint8Array(1 << 20);
  if (sparse) ftruncateSync(fd, byteLength);
  else for (let at = 0; at < byteLength; at += zeroes.length) writeSync(fd, zeroes, 0, zeroes.length, at);
  fdatasyncSync(fd);
  return { path, fd, byteLength };
}

/**
 * Writes one word of each page listed.
 * @param {Uint32Array} view
 * @param {Uint32Array} order
 * @param {number} words in a page
 * @param {number} value
 */
export function mark(view, order, words, value) {
  for (let i = 0; i < order.length; i++) view[/** @type {number} */ (order[i]) * words] = value;
}

/**
 * @param {ArrayBufferLike} buffer
 * @param {Uint32Array} order
 * @param {number} value
 */
export function markPages(buffer, order, value) {
  mark(new Uint32Array(buffer), order, WORDS, value);
}

/**
 * Throws unless the first word of each page listed, in ascending order, is `value` in the file.
 * @param {string} who
 * @param {OwnFile} file
 * @param {(page: number) => boolean} listed
 * @param {number} value
 */
export function verifyFile(who, file, listed, value) {
  const piece = new Uint32Array((1 << 20) / 4);
  for (let at = 0; at < file.byteLength; at += piece.byteLength) {
    const got = readSync(file.fd, piece, 0, piece.byteLength, at);
    for (let word = 0; word < got / 4; word += WORDS) {
      const page = at / PAGE + word / WORDS;
      if (!listed(page) || piece[word] === value) continue;
      throw new Error(`${who} left ${piece[word]} in page ${page} of the file, not ${value}.`);
    }
  }
}

/**
 * Runs an asynchronous fn once and returns its time divided by `count`. Other threads do its work: how long this one had a CPU says nothing.
 * @param {number} count
 * @param {() => Promise<unknown>} fn
 * @returns {Promise<import('./measure.js').Sample>}
 */
export async function timedAsync(count, fn) {
  const begin = process.hrtime.bigint();
  await fn();
  return { ns: Number(process.hrtime.bigint() - begin) / count };
}
