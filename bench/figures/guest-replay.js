// A working set that is all of a guest's memory, brought ahead, against one UFFDIO_COPY of the same bytes.
import { dirname } from 'node:path';
import { Snapshot } from 'pagefault/guests';
import { Daemon, makeImage, start } from '../lib/guests.js';
import { median, summary } from '../lib/measure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'guest-replay',
  title: 'speed of a replay from a warm file, against one large UFFDIO_COPY',
  target: { atLeast: 0.9 },
  run: async ({ path, rounds: asked, quick }) => {
    const pages = quick ? 8192 : 65_536;
    const rounds = Math.min(asked, 7);
    const { image, remove } = makeImage(path, pages);
    const daemon = new Daemon(dirname(path));
    const snapshot = await Snapshot.open(image);
    const all = Uint32Array.from({ length: pages }, (_, i) => i);
    /** @type {number[]} */
    const ours = [];
    /** @type {number[]} */
    const floors = [];
    try {
      for (let round = 0; round <= rounds; round++) {
        let took = 0;
        await daemon.run({
          snapshot,
          pages,
          prepare: async (guest) => {
            const begin = performance.now();
            await guest.replay(all);
            took = (performance.now() - begin) * 1e6;
          },
        });
        const { allNs } = await start(['copy', image, String(pages)]).done;
        if (round === 0) continue; // warms up
        ours.push(took);
        floors.push(allNs);
      }
    } finally {
      await daemon.close();
      await snapshot.close();
      remove();
    }
    return {
      ...summary(floors.map((floor, i) => floor / (ours[i] ?? Number.NaN))),
      unit: 'x',
      pagefault: median(ours) / pages,
      floor: median(floors) / pages,
      note: `${rounds} times ${pages} pages on each side`,
    };
  },
};
