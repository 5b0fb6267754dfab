// A file of 64 MiB as a Float32Array, with at most 8 MiB of it in memory.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { map } from 'pagefault';
import { file } from 'pagefault/stores';

const folder = mkdtempSync(join(tmpdir(), 'pagefault-'));
const path = join(folder, 'vectors.f32');
writeFileSync(
  path,
  Float32Array.from({ length: 2 ** 24 }, (_, i) => i / 2),
);

const segment = await map(file(path), { resident: '8MiB' });
try {
  const vectors = segment.view(Float32Array); // an ordinary typed array
  console.log(vectors[12_345_678]); // the page is read now, by this touch: 6172839

  let largest = 0;
  for (const number of vectors) largest = Math.max(largest, number); // all of it, never more than 8 MiB at once
  const { loads, evictions, residentBytes } = segment.stats();
  console.log(`largest ${largest}; ${loads} pages loaded, ${evictions} evicted, ${residentBytes} bytes in memory`);
} finally {
  await segment.close();
  rmSync(folder, { recursive: true });
}
