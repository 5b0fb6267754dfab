// 40,000 pages as 10,000 open segments of four, touched in random order, against the same pages as one segment touched through as many
// views. Each in a process of its own, both alive all the time, measured in turn.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { interleave, ratio } from '../lib/measure.js';

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'many-segments',
  title: 'a fault with 10,000 open segments, against a fault with one',
  target: { atMost: 1.25 },
  async run({ rounds, quick }) {
    const views = quick ? 1_000 : 10_000;
    /** @type {number[]} */
    const opened = [];
    /** @param {number} segments */
    const start = async (segments) => {
      const settings = { views, pagesPerView: 4, segments };
      const child = fork(fileURLToPath(new URL('../threads/segments.js', import.meta.url)), [JSON.stringify(settings)]);
      const ended = once(child, 'exit').then(([code, signal]) => {
        throw new Error(`The process with ${segments} segments ended with ${signal ?? `exit code ${code}`}.`);
      });
      ended.catch(() => undefined);
      const answer = () => Promise.race([once(child, 'message'), ended]);
      await answer();
      /** @type {import('../lib/measure.js').Side} */
      const side = async () => {
        child.send('run');
        const [sample] = await answer();
        opened.push(sample.opened);
        return sample;
      };
      return { side, stop: () => child.kill() };
    };
    const one = await start(1);
    const many = await start(views);
    try {
      const measured = await interleave({ many: many.side, one: one.side }, { rounds });
      return {
        ...ratio(measured.many, measured.one),
        unit: 'x',
        pagefault: measured.many.ns,
        floor: measured.one.ns,
        others: { 'opening one of them, ns': Math.min(...opened) },
      };
    } finally {
      one.stop();
      many.stop();
    }
  },
};
