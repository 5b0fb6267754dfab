// What a kernel call through `pagefault/kernel` costs over the bare system call: one call a page on a registered region that nobody
// touches, from a loop in JavaScript and from a loop in C. Addresses are made beforehand: a program has them from an event.
import { floor } from '../floor/index.js';
import { interleave, summary, timed } from './measure.js';
import { PAGE } from './touch.js';

/**
 * @typedef {object} Call
 * @property {boolean} fills whether the pages must be missing before each round
 * @property {(uffd: import('pagefault/kernel').Uffd, pages: readonly { address: bigint, byteLength: number }[], source: Uint8Array) => void} run once for each page
 * @property {() => void} floor the same in C
 */

/**
 * @param {import('./context.js').Context} context
 * @param {Call} call
 * @returns {Promise<import('./context.js').Result>}
 */
export async function measureCall({ kernel: { Mapping, Uffd }, rounds, quick }, call) {
  const count = quick ? 2048 : 16_384;
  const mapping = Mapping.anonymous(count * PAGE, { reserve: false });
  const uffd = Uffd.open({ userModeOnly: true });
  floor.callsOpen(count * PAGE);
  try {
    uffd.register(mapping, 'missing');
    const source = new Uint8Array(PAGE).fill(65);
    const pages = Array.from({ length: count }, (_, page) => ({
      address: mapping.address + BigInt(page * PAGE),
      byteLength: PAGE,
    }));
    const sides = {
      pagefault: () => {
        if (call.fills) mapping.advise('dontneed');
        return timed(count, () => call.run(uffd, pages, source));
      },
      floor: () => {
        if (call.fills) floor.callsDrop();
        return timed(count, call.floor);
      },
    };
    const measured = await interleave(sides, { rounds });
    const { pagefault, floor: bare } = measured;
    return {
      ...summary(pagefault.samples.map((ns, round) => ns - (bare.samples[round] ?? Number.NaN))),
      unit: 'ns',
      pagefault: pagefault.ns,
      floor: bare.ns,
      per: 'ns/call',
    };
  } finally {
    mapping.unmap();
    uffd.close();
    floor.callsClose();
  }
}
