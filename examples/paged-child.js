// A child process whose memory comes from its parent, a page at a time: the parent computes each page when the child touches it, keeps
// 64 KiB of it in the child at once, and keeps what the child has written when a page must go.
import { fileURLToPath } from 'node:url';
import { isPaged, pagedMemory, spawnPaged } from 'pagefault/guests';

const PAGE = 4096;

function child() {
  const { buffer } = pagedMemory(); // all of the store; nothing is read yet
  const numbers = new Float64Array(buffer);
  console.log(`child: number 100000 is ${numbers[100_000]}`);
  for (let i = 0; i < numbers.length; i += 512) numbers[i] = -1; // writes to each of the 1024 pages
  let written = 0;
  for (let i = 0; i < numbers.length; i += 512) if (numbers[i] === -1) written += 1;
  console.log(`child: ${written} pages hold what was written`);
}

async function parent() {
  const squares = {
    byteLength: 1024 * PAGE,
    read(offset, into) {
      const numbers = new Float64Array(into.buffer, into.byteOffset, into.byteLength / 8);
      for (let i = 0; i < numbers.length; i++) numbers[i] = (offset / 8 + i) ** 2;
      return into.byteLength;
    },
  };
  const process_ = await spawnPaged(process.execPath, [fileURLToPath(import.meta.url)], {
    store: squares,
    strategy: 'budget',
    resident: '64KiB',
  });
  const status = await process_.exited;
  const { faults, evictions, saves } = process_.stats();
  console.log(`parent: the child ${status.state} with code ${status.code}`);
  console.log(`parent: ${faults} faults, ${evictions} evictions, ${saves} of them of pages with writes`);
}

if (isPaged()) child();
else await parent();
