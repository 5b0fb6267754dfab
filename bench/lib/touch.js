// The loop that all sides run, the orders in which it touches pages, and the sides themselves: pagefault, the floors in C, the kernel's
// mmap, fs.readSync. Each side opens afresh, is timed over the loop alone, closes, and must have read the right bytes.
import { closeSync, openSync, readSync } from 'node:fs';
import { floor } from '../floor/index.js';
import { timed } from './measure.js';

export const PAGE = floor.pageSize();

/**
 * Reads one byte of each page listed. The sum is used by the caller: optimised code leaves out a load whose value is not.
 * @param {Uint8Array} view
 * @param {Uint32Array} order
 * @param {number} pageSize
 */
export function touch(view, order, pageSize) {
  let sum = 0;
  for (let i = 0; i < order.length; i++) {
    sum = (sum + /** @type {number} */ (view[/** @type {number} */ (order[i]) * pageSize])) | 0;
  }
  return sum >>> 0;
}

/** @param {number} pages */
export function sequential(pages) {
  const order = new Uint32Array(pages);
  for (let page = 0; page < pages; page++) order[page] = page;
  return order;
}

/**
 * Numbers in [0, 1), the same ones for the same seed (mulberry32).
 * @param {number} seed
 */
export function random(seed) {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

/**
 * Each page once, shuffled.
 * @param {number} pages
 * @param {number} [seed]
 */
export function shuffled(pages, seed = 1) {
  const order = sequential(pages);
  const next = random(seed);
  for (let i = pages - 1; i > 0; i--) {
    const other = Math.floor(next() * (i + 1));
    const held = /** @type {number} */ (order[i]);
    order[i] = /** @type {number} */ (order[other]);
    order[other] = held;
  }
  return order;
}

/**
 * @param {string} who
 * @param {number} got
 * @param {number} expected
 */
export function verify(who, got, expected) {
  if (got !== expected) throw new Error(`${who} read the wrong bytes: their sum is ${got}, not ${expected}.`);
}

/**
 * What the sides read: the first pages of a file whose first bytes of pages sum up to `sum`.
 * @typedef {{ path: string, fd: number, byteLength: number, order: Uint32Array, sum: number }} Work
 */

/**
 * @param {import('./context.js').Context} context
 * @param {{ pages: number, pattern: 'random' | 'sequential' }} options
 * @returns {Work}
 */
export function work(context, { pages, pattern }) {
  const fd = openSync(context.path, 'r');
  const order = pattern === 'random' ? shuffled(pages) : sequential(pages);
  const buffer = new Uint8Array(1 << 20);
  let sum = 0;
  // Also warms the page cache.
  for (let position = 0; position < pages * PAGE; position += buffer.length) {
    const got = readSync(fd, buffer, 0, Math.min(buffer.length, pages * PAGE - position), position);
    for (let at = 0; at < got; at += PAGE) sum = (sum + /** @type {number} */ (buffer[at])) | 0;
  }
  process.once('exit', () => closeSync(fd));
  return { path: context.path, fd, byteLength: pages * PAGE, order, sum: sum >>> 0 };
}

/**
 * A side that runs the loop over pages of the file through pagefault.
 * @param {import('./context.js').Context} context
 * @param {Work} what
 * @param {import('pagefault').MapOptions} options
 * @returns {import('./measure.js').Side}
 */
export function pagefaultSide({ map, stores }, what, options) {
  return async () => {
    const segment = await map(stores.file(what.path), { byteLength: what.byteLength, ...options });
    try {
      const view = segment.view(Uint8Array);
      let sum = 0;
      const sample = timed(what.order.length, () => {
        sum = touch(view, what.order, PAGE);
      });
      verify('pagefault', sum, what.sum);
      return sample;
    } finally {
      await segment.close();
    }
  };
}

/**
 * A side that runs the loop over an ArrayBuffer that the floor addon makes.
 * @param {Work} what
 * @param {() => ArrayBuffer} open
 * @param {(buffer: ArrayBuffer) => boolean | void} close false if it was disturbed
 * @returns {import('./measure.js').Side}
 */
function floorSide(what, open, close) {
  return () => {
    const buffer = open();
    const view = new Uint8Array(buffer);
    let sum = 0;
    const sample = timed(what.order.length, () => {
      sum = touch(view, what.order, PAGE);
    });
    const undisturbed = close(buffer);
    verify('The floor', sum, what.sum);
    return undisturbed === false ? { ...sample, busy: 0 } : sample;
  };
}

/**
 * @param {Work} what
 * @param {{ batch?: number, capacity?: number }} [options] in pages
 */
export function sigbusFloor(what, { batch = 1, capacity = 0 } = {}) {
  return floorSide(what, () => floor.sigbusOpen(what.byteLength, what.fd, batch, capacity), floor.sigbusClose);
}

/** @param {Work} what */
export function mprotectFloor(what) {
  return floorSide(what, () => floor.mprotectOpen(what.byteLength, what.fd), floor.mprotectClose);
}

/** @param {Work} what */
export function mmapSide(what) {
  return floorSide(what, () => floor.mmapOpen(what.byteLength, what.fd), floor.mmapClose);
}

/**
 * @param {Work} what
 * @returns {import('./measure.js').Side}
 */
export function readSyncSide(what) {
  const buffer = new Uint8Array(PAGE);
  return () => {
    let sum = 0;
    const sample = timed(what.order.length, () => {
      for (const page of what.order) {
        readSync(what.fd, buffer, 0, PAGE, page * PAGE);
        sum = (sum + /** @type {number} */ (buffer[0])) | 0;
      }
    });
    verify('fs.readSync', sum >>> 0, what.sum);
    return sample;
  };
}
