// Service times of a guest that touches a warm file's pages in random order, by the same guest on both sides; in the daemon JavaScript makes garbage meanwhile.
import { dirname } from 'node:path';
import { Snapshot } from 'pagefault/guests';
import { Daemon, makeGarbage, makeImage, start } from './guests.js';
import { median, summary } from './measure.js';

/**
 * @param {import('./context.js').Context} context
 * @param {'p50' | 'p999'} field
 * @returns {Promise<import('./context.js').Result>}
 */
export async function guestService({ path, rounds: asked, quick }, field) {
  const pages = quick ? 4000 : 30_000;
  const rounds = Math.min(asked, 7);
  const { image, remove } = makeImage(path, pages);
  const daemon = new Daemon(dirname(path));
  const snapshot = await Snapshot.open(image);
  /** @type {{ ours: number[], floors: number[] }} */
  const all = { ours: [], floors: [] };
  const stop = makeGarbage();
  try {
    for (let round = 0; round <= rounds; round++) {
      const floor = async () => (await start(['floor', image, String(pages), '1', '0']).done)[field];
      const ours = async () => (await daemon.run({ snapshot, pages })).touched[field];
      const first = round % 2 === 0 ? await ours() : await floor();
      const second = round % 2 === 0 ? await floor() : await ours();
      if (round === 0) continue; // warms up
      all.ours.push(round % 2 === 0 ? first : second);
      all.floors.push(round % 2 === 0 ? second : first);
    }
  } finally {
    stop();
    await daemon.close();
    await snapshot.close();
    remove();
  }
  const ratios = summary(all.ours.map((one, i) => one / (all.floors[i] ?? Number.NaN)));
  return {
    ...ratios,
    unit: 'x',
    pagefault: median(all.ours),
    floor: median(all.floors),
    per: 'ns/touch',
    note: `${rounds} runs of ${pages} pages on each side, seen from the guest`,
  };
}
