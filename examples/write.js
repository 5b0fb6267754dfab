// A file written like an array: 8 million squares in a new file of 64 MiB, with at most 8 MiB of it in memory.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { map } from 'pagefault';
import { file } from 'pagefault/stores';

const folder = mkdtempSync(join(tmpdir(), 'pagefault-'));
const path = join(folder, 'squares.f64');

const segment = await map(file(path, { create: '64MiB' }), { writable: true, resident: '8MiB' });
try {
  const squares = segment.view(Float64Array);
  for (let i = 0; i < squares.length; i++) squares[i] = i * i; // pages that must leave memory are written to the file first
  const modified = segment.dirty().reduce((sum, { byteLength }) => sum + byteLength, 0);
  console.log(
    `${segment.byteLength} bytes written, ${modified <= 2 ** 23 ? 'at most 8 MiB' : modified} of them not in the file yet`,
  );

  await segment.flush(); // all of it is in the file, and stays there if the power fails now
  console.log(`after flush: ${segment.dirty().length} modified ranges`);

  squares[12_345] = -1; // one page is modified again
  console.log(`after one more write: ${JSON.stringify(segment.dirty())}`);
} finally {
  await segment.close(); // flushes too; rejects, and leaves the segment open, if the file cannot be written
}

const bytes = readFileSync(path);
const numbers = new Float64Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 8);
console.log(`in the file: ${numbers[12_344]}, ${numbers[12_345]}, ${numbers.at(-1)}`);
rmSync(folder, { recursive: true });
