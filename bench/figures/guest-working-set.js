// A restore from a source of 1 ms: by demand alone, and with the working set of an earlier run, of which 85 of 100 pages are touched again.
import { writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Snapshot } from 'pagefault/guests';
import { custom } from 'pagefault/stores';
import { Daemon } from '../lib/guests.js';

const STABLE = 0.85;

/** @param {number} seed */
function randoms(seed) {
  let state = seed;
  return (/** @type {number} */ below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** @type {import('../lib/context.js').Figure} */
export default {
  name: 'guest-working-set',
  title: 'time of a restore by demand alone, against the same with a working set',
  target: { atLeast: 3 },
  run: async ({ path, workingSet: touched }) => {
    const pages = touched * 4;
    const daemon = new Daemon(dirname(path));
    const moduleUrl = pathToFileURL(join(import.meta.dirname, '..', 'stores', 'slow.js'));
    const random = randoms(7);
    /** Runs of 1 to 8 pages here and there: what a guest touches. @param {number} count @param {Set<number>} not */
    const some = (count, not) => {
      const list = new Set();
      while (list.size < count) {
        const from = random(pages - 8);
        for (let i = 0; i <= random(8) && list.size < count; i++) if (!not.has(from + i)) list.add(from + i);
      }
      return list;
    };
    const first = some(touched, new Set());
    const stable = [...first].filter((_, i) => i % 100 < STABLE * 100);
    const second = Uint32Array.from([...stable, ...some(touched - stable.length, first)]);
    const list = join(dirname(path), 'second.u32');
    writeFileSync(list, second);
    /** @param {Uint32Array | undefined} replayed */
    const restore = async (replayed) => {
      const snapshot = await Snapshot.open(custom(moduleUrl, { byteLength: pages * 4096 }));
      const begin = performance.now();
      const { numbers, trace } = await daemon.run({
        snapshot,
        pages,
        threads: 1,
        record: true,
        env: { LIST: list },
        prepare: async (guest) => {
          if (replayed !== undefined) await guest.replay(replayed);
        },
      });
      const ms = performance.now() - begin;
      await snapshot.close();
      const faulted = new Set(trace.pages);
      const spared = stable.reduce((sum, page) => sum + (faulted.has(page) ? 0 : 1), 0);
      return { ms, faults: numbers.demand, spared: (100 * spared) / stable.length };
    };
    try {
      const without = await restore(undefined);
      const withSet = await restore(Uint32Array.from(first));
      return {
        value: without.ms / withSet.ms,
        unit: 'x',
        pagefault: withSet.ms,
        floor: without.ms,
        per: 'ms',
        others: {
          'demand faults': withSet.faults,
          'without the set': without.faults,
        },
        also: [
          {
            name: 'fewer faults',
            value: without.faults / withSet.faults,
            unit: 'x',
            target: { atLeast: 6 },
          },
          {
            name: 'stable pages that never fault',
            value: withSet.spared,
            unit: '%',
            target: { atLeast: 98 },
          },
        ],
        note: `${touched} pages touched by one thread, ${STABLE * 100} % of them as in the run before; the guest begins when its working set is there`,
      };
    } finally {
      await daemon.close();
    }
  },
};
