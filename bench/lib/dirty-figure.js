// A figure of dirty(): how long it takes to say which pages of a fully resident segment were written to, beside one PAGEMAP_SCAN in C over the
// very same memory.
import { floor } from '../floor/index.js';
import { interleave, median, timed } from './measure.js';
import { sequential } from './touch.js';
import { markPages, ownFile } from './writes.js';

/** So short a thing is measured so many times a round; the round says the median. */
const TIMES = 9;

/**
 * @param {import('./context.js').Context} context
 * @param {'clean' | 'dirty'} state
 */
export async function measureDirty(context, state) {
  const { map, stores, quick } = context;
  const pages = quick ? 65_536 : 262_144;
  const file = ownFile(context, { pages, sparse: true });
  const segment = await map(stores.file(file.path), { backend: 'signal', writable: true });
  await segment.load();
  const byteLength = state === 'dirty' ? file.byteLength : 0;
  if (byteLength > 0) markPages(segment.buffer, sequential(pages), 1);

  /**
   * @param {string} who
   * @param {() => number} ask bytes that are dirty
   * @returns {import('./measure.js').Side}
   */
  const side = (who, ask) => () => {
    const samples = [];
    for (let time = 0; time < TIMES; time++) {
      let said = -1;
      samples.push(
        timed(1, () => {
          said = ask();
        }).ns,
      );
      if (said !== byteLength) throw new Error(`${who} says that ${said} bytes are dirty, not ${byteLength}.`);
    }
    return { ns: median(samples) };
  };
  const sides = {
    pagefault: side('dirty()', () => segment.dirty().reduce((total, range) => total + range.byteLength, 0)),
    floor: side('PAGEMAP_SCAN', () => floor.written(segment.address, file.byteLength)),
  };
  const measured = await interleave(sides, context);
  await segment.close({ discard: true });
  return measured;
}
