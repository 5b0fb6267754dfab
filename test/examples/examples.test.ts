/** Every example runs, ends by itself, and prints what it promises. */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { root, runNode } from '../helpers/run.js';

/** What must be in the output. An example that is not named here fails the last test. */
const PROMISES: Record<string, RegExp[]> = {
  'quick-start.js': [/^6172839$/m, /^largest 8388607\.5; \d+ pages loaded, \d+ evicted, \d+ bytes in memory$/m],
  'custom-store.js': [/^hello hello hello$/m, /^2 reads of the store$/m],
  'budget.js': [/together at most 4096 KiB/, /after reading the second: first \d+ KiB/],
  'workers.js': [/add up to \d+, counted by 2 threads/, /\d+ faults, \d+ waits/],
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
/** Has a test file of its own. */
const ELSEWHERE = ['tour.js'];

for (const [name, promises] of Object.entries(PROMISES)) {
  test(`examples/${name} does what it says`, async () => {
    const { code, stdout, stderr } = await runNode(join('examples', name));
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    for (const promise of promises) assert.match(stdout, promise);
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
