// The price of a store written in JavaScript: faults that wait for a Worker, against faults that wait for a thread in C which fills the
// same pages with the same bytes. Both regions stay open; their pages are dropped before each round.
import { floor } from '../floor/index.js';
import { interleave, ratio, timed } from './measure.js';
import { PAGE, sequential, touch, verify } from './touch.js';

/**
 * The low byte of its number in every byte of a page, as the floor has it.
 * @param {number} pages
 */
function filled(pages) {
  const bytes = new Uint8Array(new SharedArrayBuffer(pages * PAGE));
  for (let page = 0; page < pages; page++) bytes.fill(page, page * PAGE, (page + 1) * PAGE);
  return bytes;
}

/**
 * Without an `answer` the store is memory, served in C by backend thread.
 * @param {import('./context.js').Context} context
 * @param {{ answer?: 'sync' | 'async', sameCpu: boolean }} options
 */
export async function measureStore({ map, stores, rounds, quick }, { answer, sameCpu }) {
  if (sameCpu) floor.pinProcess(floor.cpus().at(-1) ?? 0);
  const pages = quick ? 1024 : 8192;
  const order = sequential(pages);
  const expected = order.reduce((sum, page) => sum + (page & 255), 0) >>> 0;
  const byteLength = pages * PAGE;

  const options = { byteLength, pageSize: PAGE, answer };
  const store =
    answer === undefined
      ? stores.memory(filled(pages))
      : stores.custom(new URL('../stores/fill.js', import.meta.url), options);
  const segment = await map(store, { backend: answer === undefined ? 'thread' : 'signal', readahead: 0 });
  const buffer = floor.threadOpen(byteLength);
  try {
    /**
     * @param {string} who
     * @param {Uint8Array} view
     * @param {() => void} drop
     * @returns {import('./measure.js').Side}
     */
    const side = (who, view, drop) => () => {
      drop();
      let sum = 0;
      const { ns } = timed(pages, () => {
        sum = touch(view, order, PAGE);
      });
      verify(who, sum, expected);
      return { ns };
    };
    const sides = {
      pagefault: side('pagefault', segment.view(Uint8Array), () => {
        if (segment.release() === 0 && segment.stats().residentBytes !== 0)
          throw new Error('release() dropped nothing.');
      }),
      floor: side('The floor', new Uint8Array(buffer), () => floor.drop(buffer)),
    };
    const measured = await interleave(sides, { rounds });
    return { ...ratio(measured.pagefault, measured.floor), pagefault: measured.pagefault.ns, floor: measured.floor.ns };
  } finally {
    floor.threadClose(buffer);
    await segment.close();
  }
}

/**
 * Unpinned, what counts is the time itself: the floor's varies with the machine's idle states more than ours.
 * @param {import('./context.js').Context} context
 * @param {'sync' | 'async'} answer
 * @returns {Promise<import('./context.js').Result>}
 */
export async function measureUnpinned(context, answer) {
  const { value, pagefault, floor: floorNs } = await measureStore(context, { answer, sameCpu: false });
  return { value: pagefault / 1000, unit: 'us', pagefault, floor: floorNs, others: { ratio: value } };
}
