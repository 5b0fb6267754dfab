// A store that takes a millisecond for each read, however long, and answers several at once, as one over a network does. Runs of pages are asked for in one read.
import { setTimeout as wait } from 'node:timers/promises';

/** @param {{ byteLength: number }} options */
export default function open({ byteLength }) {
  return {
    byteLength,
    concurrency: 32,
    longestRead: 262_144,
    /** @param {number} offset @param {Uint8Array} into */
    async read(offset, into) {
      await wait(1);
      for (let i = 0; i < into.length; i += 4096) into[i] = 1 + (((offset + i) / 4096) % 251);
      return into.length;
    },
  };
}
