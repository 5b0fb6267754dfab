// Act 2: an array larger than memory whose numbers come from a store in JavaScript: examples/stores/square-roots.js.
import { constants } from 'node:buffer';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { map } from 'pagefault';
import { formatBytes, formatCount, renderSegment, terminalOf } from 'pagefault/observe';
import { custom } from 'pagefault/stores';

const GIB = 2 ** 30;
/** Node 20 holds 4 GiB in one buffer. */
const BYTES = constants.MAX_LENGTH >= 64 * GIB ? 64 * GIB : 4 * GIB;
/** What the claim allows. Most of it is for pages, the rest for page tables: 4 KiB for each 2 MiB ever touched. */
const MEMORY = 64 * 2 ** 20;
const RESIDENT = 40 * 2 ** 20;
const TROUBLE_FROM = BYTES - GIB;
const SPREAD_TOUCHES = 2048;
const SCAN_BYTES = 128 * 2 ** 20;

/** Shows the act and says whether every number touched was right. */
export async function actTwo() {
  const terminal = terminalOf(process.stdout);
  const trouble = new SharedArrayBuffer(4);
  const store = custom(new URL('../stores/square-roots.js', import.meta.url), {
    byteLength: BYTES,
    trouble,
    troubleFrom: TROUBLE_FROM,
  });
  const segment = await map(store, { resident: RESIDENT });
  try {
    console.log(terminal.paint('bold', `Act 2: a Float64Array of ${formatBytes(BYTES)} in ${formatBytes(MEMORY)}`));
    console.log(`served by 15 lines of JavaScript; backend ${segment.backend}\n`);
    const roots = segment.view(Float64Array);
    const before = await processMemory();
    const touched = touchEverywhere(roots);
    const healed = await failAndHeal(segment, roots, trouble);
    const after = await processMemory();

    console.log(`\n${renderSegment(segment, terminal).join('\n')}\n`);
    const used = after.pages - before.pages + after.pageTables - before.pageTables;
    const fits = used <= MEMORY;
    const right = touched.wrong === 0 && healed;
    console.log(
      `Result: ${formatBytes(BYTES)} addressed, ${formatBytes(touched.count * 8)} touched, ` +
        `${formatBytes(used)} of memory used (${formatBytes(after.pageTables - before.pageTables)} of it page tables)` +
        `${fits ? '' : `, MORE than ${formatBytes(MEMORY)}`}, ` +
        (right
          ? terminal.paint('green', `all ${formatCount(touched.count)} numbers verified`)
          : terminal.paint('red', 'WRONG')),
    );
    return right && fits;
  } finally {
    await segment.close();
  }
}

/** Single touches spread over the whole array, then a scan in the middle of it. */
function touchEverywhere(roots) {
  let count = 0;
  let wrong = 0;
  const check = (index) => {
    count++;
    if (roots[index] !== Math.sqrt(index)) wrong++;
  };
  // Steps of the golden ratio come near every part of the array soon, in no order that read-ahead could follow. The
  // last GiB is left for the failure.
  const spread = TROUBLE_FROM / 8;
  for (let i = 0; i < SPREAD_TOUCHES; i++) check(Math.floor(((i * 0.618033988749895) % 1) * spread));
  const middle = Math.floor(spread / 2);
  for (let index = middle; index < middle + SCAN_BYTES / 8; index++) check(index);
  console.log(`${formatCount(count)} numbers touched: ${SPREAD_TOUCHES} all over, the others one after the other`);
  return { count, wrong };
}

/** The store fails for the last GiB, the rest stays usable, and then the store heals. */
async function failAndHeal(segment, roots, trouble) {
  const offset = BYTES - GIB / 2;
  const index = offset / 8;

  Atomics.store(new Int32Array(trouble), 0, 1);
  let thrown;
  try {
    segment.read(offset, 8);
  } catch (error) {
    thrown = error;
  }
  const failed = thrown?.name === 'PageError' && thrown.cause?.message === 'the far end is out of order';
  console.log(`the store fails: read() throws ${thrown?.name} (${thrown?.code}), cause "${thrown?.cause?.message}"`);

  const elsewhere = roots[4_242_424] === Math.sqrt(4_242_424);
  console.log(`other pages:     ${elsewhere ? 'still right' : 'WRONG'}`);

  Atomics.store(new Int32Array(trouble), 0, 0);
  await segment.load(offset, 8);
  const healed = roots[index] === Math.sqrt(index);
  console.log(
    `the store heals: after load() element ${formatCount(index)} is ${roots[index]}, ${healed ? 'right' : 'WRONG'}`,
  );
  return failed && elsewhere && healed;
}

/**
 * Bytes that this process has allocated: its own pages in memory, and the kernel's tables that map them. Pages that are
 * mapped twice, as those of the backend mprotect are, count once (Pss). Mapped files, such as Node itself, do not count.
 */
async function processMemory() {
  // What JavaScript has thrown away is not memory that the segment uses.
  setFlagsFromString('--expose-gc');
  for (let i = 0; i < 3; i++) {
    runInNewContext('gc')();
    await sleep(30);
  }
  const bytes = (file, name) => {
    const [, kib = 0] =
      new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(readFileSync(`/proc/self/${file}`, 'utf8')) ?? [];
    return Number(kib) * 1024;
  };
  return {
    pages: bytes('smaps_rollup', 'Pss_Anon') + bytes('smaps_rollup', 'Pss_Shmem'),
    pageTables: bytes('status', 'VmPTE'),
  };
}
