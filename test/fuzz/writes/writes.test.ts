/** The fuzz of segments that are written to, as a test: with all that the kernel has, and without the parts that older ones do not have. */

import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runFuzz, withSeed } from '../harness.js';
import { type Case, makeCase, simpler } from './case.js';

const WITHOUT = ['', 'wp_unpopulated', 'wp_async', '', 'move', 'wp'];

test(withSeed('what is written is there, and in the store once it is flushed, whatever is done in between'), (t) =>
  runFuzz<Case>(t, {
    program: fileURLToPath(new URL('./main.js', import.meta.url)),
    seconds: 9,
    make: makeCase,
    simpler,
    tries: ({ threads }) => (threads.length > 0 ? 8 : 3),
    environments: WITHOUT.map((without) => ({ PAGEFAULT_WITHOUT: without })),
  }),
);
