// The benchmark's stores in JavaScript: each page is filled with the low byte of its number, at once, in a promise, or after a delay,
// as the floor in C does. `counter`, if given, is a shared Int32Array that counts the reads.
import { setTimeout as sleep } from 'node:timers/promises';

/**
 * @param {{ byteLength: number, pageSize: number, answer: 'sync' | 'async' | 'late', delayMs?: number, counter?: Int32Array }} options
 */
export default function open({ byteLength, pageSize, answer, delayMs = 0, counter }) {
  /**
   * @param {number} offset
   * @param {Uint8Array} into
   */
  const read = (offset, into) => {
    if (counter) Atomics.add(counter, 0, 1);
    into.fill((offset / pageSize) & 255);
    return into.length;
  };
  /**
   * @param {number} offset
   * @param {Uint8Array} into
   */
  const readAsync = async (offset, into) => read(offset, into);
  /**
   * @param {number} offset
   * @param {Uint8Array} into
   */
  const readLate = async (offset, into) => {
    await sleep(delayMs);
    return read(offset, into);
  };
  return { byteLength, read: { sync: read, async: readAsync, late: readLate }[answer] };
}
