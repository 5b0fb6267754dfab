// What a kernel call through `pagefault/kernel` costs over the bare system call: one call a page on a registered region that nobody
// touches, from a loop in JavaScript and from a loop in C. Addresses are made beforehand: a program has them from an event.
import { floor } from '../floor/index.js';
import { interleave, median, summary, timed } from './measure.js';
import { PAGE } from './touch.js';

/**
 * @typedef {object} Call
 * @property {boolean} fills whether the pages must be missing before each round
 * @property {(uffd: import('pagefault/kernel').Uffd, pages: readonly { address: bigint, byteLength: number }[], source: Uint8Array) => void} run once for each page
 * @property {() => void} floor the same in C
 */

/** So few that neither the pages nor their addresses leave the processor's caches, as those of a fault would not. */
const PAGES = 256;

/**
 * @param {import('./context.js').Context} context
 * @param {Call} call
 * @returns {Promise<import('./context.js').Result>}
 */
export async function measureCall({ kernel: { Mapping, Uffd }, rounds, quick }, call) {
  const batches = quick ? 20 : 200;
  const mapping = Mapping.anonymous(PAGES * PAGE, { reserve: false });
  const bytes = Mapping.anonymous(PAGE);
  const uffd = Uffd.open({ userModeOnly: true });
  floor.callsOpen(PAGES * PAGE);
  try {
    uffd.register(mapping, 'missing');
    // A whole page, as the floor's: some processors copy from between two cache lines more slowly, whoever calls.
    const source = new Uint8Array(bytes.buffer).fill(65);
    const pages = Array.from({ length: PAGES }, (_, page) => ({
      address: mapping.address + BigInt(page * PAGE),
      byteLength: PAGE,
    }));
    const drop = () => mapping.advise('dontneed');
    const sides = {
      pagefault: () => repeated(batches, call.fills ? drop : undefined, () => call.run(uffd, pages, source)),
      floor: () => repeated(batches, call.fills ? floor.callsDrop : undefined, call.floor),
    };
    const { pagefault, floor: bare } = await interleave(sides, { rounds });
    return {
      ...summary(pagefault.samples.map((ns, round) => ns - (bare.samples[round] ?? Number.NaN))),
      unit: 'ns',
      pagefault: pagefault.ns,
      floor: bare.ns,
      per: 'ns/call',
    };
  } finally {
    mapping.unmap();
    bytes.unmap();
    uffd.close();
    floor.callsClose();
  }
}

/**
 * The median over the batches: one takes half a millisecond, and few are interrupted.
 * @param {number} batches
 * @param {(() => void) | undefined} prepare runs before each batch, outside the clock
 * @param {() => void} run one call for each page
 * @returns {import('./measure.js').Sample}
 */
function repeated(batches, prepare, run) {
  const samples = [];
  for (let batch = 0; batch < batches; batch++) {
    prepare?.();
    samples.push(timed(PAGES, run).ns);
  }
  return { ns: median(samples) };
}
