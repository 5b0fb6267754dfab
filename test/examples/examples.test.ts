/** Every example runs, ends by itself, and prints what it promises. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { runConfined } from '../helpers/confined.js';
import { root, runNode } from '../helpers/run.js';

/** What must be in the output. An example that is not named here fails the last test. */
const PROMISES: Record<string, RegExp[]> = {
  'quick-start.js': [/^6172839$/m, /^largest 8388607\.5; \d+ pages loaded, \d+ evicted, \d+ bytes in memory$/m],
  'write.js': [
    /^67108864 bytes written, at most 8 MiB of them not in the file yet$/m,
    /^after flush: 0 modified ranges$/m,
    /^after one more write: \[\{"offset":98304,"byteLength":4096\}\]$/m,
    /^in the file: 152374336, -1, 70368727400449$/m,
  ],
  'custom-store.js': [/^hello hello hello$/m, /^2 reads of the store$/m],
  'budget.js': [/together at most 4096 KiB/, /after reading the second: first \d+ KiB/],
  'workers.js': [/add up to \d+, counted by 2 threads/, /\d+ faults, \d+ waits/],
  'arrow.js': [
    /^an Arrow file of 8\d{3} KiB in \d batches; readFile would need all 8\d{3} KiB of memory$/m,
    /^ArrayBuffer, \w+:\nopened \d{6} rows by reading \d\d KiB\nLima: \d+ above zero, mean 43\.2\d\d$/m,
    /^SharedArrayBuffer, [\s\S]*^two columns of four were read: 2\d{3} KiB$/m,
    /^\d+ faults, 1\d{4} KiB read, at most \d{3,4} KiB in memory at once$/m,
  ],
  'parquet.js': [
    /^a Parquet file of 4\d{3} KiB, 280000 rows; \w+, at most 1024 KiB$/m,
    /^a tenth of the days, three columns of four, the first time: 2\d\d KiB read$/m,
    /^a tenth of the days, three columns of four, again: 0 KiB read$/m,
    /^every row is right; 4\d{3} KiB read, at most \d{3,4} KiB in memory at once$/m,
  ],
  'nearest.js': [
    /^an index of 108943 places, 4086 KiB; \w+, at most 512 KiB in memory$/m,
    /^opened by reading 8 KiB$/m,
    /^nearest to 321\.5, 654\.5: places 1281, 25147, 438, 49013, 2124; \d\d KiB read, and again 0$/m,
    /^10895 places that look for themselves: \d+ faults, \d+ KiB read by now, at most [345]\d\d KiB in memory at once$/m,
  ],
  'hdf5.js': [
    /^an HDF5 file of 4\d{3} KiB, 128 days; \w+, at most 512 KiB in memory$/m,
    /^opened, a grid of 128 × 64 × 64: \d{1,2} KiB read by then$/m,
    /^one number of day 64: \d{1,3} KiB read by then$/m,
    /^every number is right; \d+ faults, 4\d{3} KiB read, at most [345]\d\d KiB in memory at once$/m,
  ],
  'kernel-faults.js': [/^backend thread: [\s\S]*^the copy is right$|^kernelFaults: true cannot work: /m],
  'into-wasm.js': [
    /^WebAssembly counted \d+ zeroes in 33554432 bytes$/m,
    /^8192 pages loaded, at most 4096 KiB in memory: [1-4]\d{3} now$/m,
    /^behind its end: RuntimeError: memory access out of bounds$/m,
    /^\/\/ WebAssembly over a file tha$/m,
  ],
  'shared-memory.js': [
    /^child: read 32 pages of the file for the sum (\d+)\nparent: read 32 pages of the file, and 0 more for the sum \1$/m,
    /^64 pages are in memory, once$/m,
  ],
  'kernel-pager.js': [
    /^page 5 is wanted$/m,
    /^page 2 is wanted$/m,
    /^page 5 is full of 55\n[\s\S]*^page 2 is full of 22\npage 5 is full of 55$/m,
  ],
  'paged-child.js': [
    /^child: number 100000 is 10000000000$/m,
    /^child: 1024 pages hold what was written$/m,
    /^parent: the child exited with code 0$/m,
    /^parent: \d{4} faults, \d{4} evictions, \d{4} of them of pages with writes$/m,
  ],
  'failure.js': [
    /^read: PageError ERR_PAGEFAULT_STORE because the network is down$/m,
    /^attempt: PageError at offset 1044480$/m,
    /^other pages: 42, failed pages: 1$/m,
    /^after load: 42, failed pages: 0$/m,
  ],
};
/** Have a test file of their own. */
const ELSEWHERE = ['libraries.js', 'tour.js'];

for (const [name, promises] of Object.entries(PROMISES)) {
  test(`examples/${name} does what it says`, async () => {
    const { code, stdout, stderr } = await runNode(join('examples', name));
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    for (const promise of promises) assert.match(stdout, promise);
  });
}

for (const name of ['arrow.js', 'parquet.js', 'nearest.js', 'hdf5.js']) {
  test(`examples/${name} does it where userfaultfd is refused, too`, async () => {
    const { code, stdout, stderr } = await runConfined({ denyUserfaultfd: true }, join('examples', name), ['3']);
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    assert.match(stdout, /[ ,]mprotect[,:]/);
    assert.match(stdout, /^.* read.*, at most \d+ KiB in memory at once$/m);
  });
}

test('the example of workers adds up the bytes of the file', async () => {
  let sum = 0;
  for (const byte of readFileSync(process.execPath)) sum += byte;
  const { stdout } = await runNode(join('examples', 'workers.js'));
  assert.ok(stdout.includes(`add up to ${sum},`), stdout);
});

test('docs/kernel.md shows the example of a pager as it stands', () => {
  const example = readFileSync(join(root, 'examples', 'kernel-pager.js'), 'utf8');
  assert.ok(readFileSync(join(root, 'docs', 'kernel.md'), 'utf8').includes(`\`\`\`js\n${example}\`\`\`\n`));
});

test('no example is left out', () => {
  const names = readdirSync(join(root, 'examples')).filter((name) => name.endsWith('.js'));
  assert.deepEqual(names.sort(), [...Object.keys(PROMISES), ...ELSEWHERE].sort());
});
