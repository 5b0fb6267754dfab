// A guest that touches a page each 10 ms, alone and beside a storm: another one with 8 threads over 100,000 pages, and 98 that are idle.
import { dirname } from 'node:path';
import { Snapshot } from 'pagefault/guests';
import { Daemon, makeImage } from '../lib/guests.js';
import { median } from '../lib/measure.js';

const IDLE = 98;

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'guest-quiet',
  title: '99th percentile of a quiet guest beside a storm, against the same alone',
  target: { atMost: 5 },
  run: async ({ path, quick }) => {
    const pages = quick ? 20_000 : 100_000;
    const touches = quick ? 100 : 300;
    const { image, remove } = makeImage(path, pages);
    const daemon = new Daemon(dirname(path));
    const snapshot = await Snapshot.open(image);
    const quiet = () => daemon.run({ snapshot, pages: touches, everyUs: 10_000 });
    /** @type {{ close(): Promise<void> }[]} */
    const idle = [];
    /** @type {number[]} */
    const alone = [];
    /** @type {number[]} */
    const beside = [];
    try {
      for (let i = 0; i < IDLE; i++) idle.push(await daemon.idle(snapshot, 1000));
      for (let round = 0; round < 3; round++) {
        alone.push((await quiet()).touched.p99);
        let over = false;
        const storm = (async () => {
          while (!over) await daemon.run({ snapshot, pages, threads: 8 });
        })();
        beside.push((await quiet()).touched.p99);
        over = true;
        await storm;
      }
      const ratios = beside.map((one, i) => one / (alone[i] ?? Number.NaN));
      return {
        value: median(ratios),
        spread: [Math.min(...ratios), Math.max(...ratios)],
        unit: 'x',
        pagefault: median(beside),
        floor: median(alone),
        per: 'ns/touch',
        others: { 'p99 beside the storm, µs': median(beside) / 1000, 'p99 alone, µs': median(alone) / 1000 },
        note: `three times ${touches} touches, of 100 guests`,
      };
    } finally {
      for (const one of idle) await one.close();
      await daemon.close();
      await snapshot.close();
      remove();
    }
  },
};
