// A figure of flushing: a set of dirty pages goes to a file through the file store and is made durable, against pwrite of as many bytes at
// the same offsets and fdatasync in C.
import { floor } from '../floor/index.js';
import { interleave, ratio } from './measure.js';
import { PAGE, sequential } from './touch.js';
import { markPages, ownFile, timedAsync, verifyFile } from './writes.js';

/**
 * @param {import('./context.js').Context} context
 * @param {number} stride every so manyth page is dirty
 * @returns {Promise<import('./context.js').Result>}
 */
export async function measureFlush(context, stride) {
  const { map, stores, pages } = context;
  const file = ownFile(context, { pages });
  const dirty = sequential(pages).filter((page) => page % stride === 0);
  const isDirty = (/** @type {number} */ page) => page % stride === 0;
  let round = 0;
  const bytes = new ArrayBuffer(file.byteLength);
  new Uint8Array(bytes).fill(1);
  const sides = {
    pagefault: async () => {
      const segment = await map(stores.file(file.path), { backend: 'signal', writable: true });
      try {
        await segment.load();
        markPages(segment.buffer, dirty, ++round);
        const sample = await timedAsync(dirty.length, () => segment.flush());
        verifyFile('pagefault', file, isDirty, round);
        return sample;
      } finally {
        await segment.close();
      }
    },
    floor: async () => {
      markPages(bytes, dirty, ++round);
      const sample = await timedAsync(dirty.length, async () => floor.flush(file.fd, bytes, PAGE, stride * PAGE));
      verifyFile('The floor', file, isDirty, round);
      return sample;
    },
  };
  const { pagefault, floor: inC } = await interleave(sides, context);
  return { ...ratio(inC, pagefault), unit: 'x', pagefault: pagefault.ns, floor: inC.ns };
}
