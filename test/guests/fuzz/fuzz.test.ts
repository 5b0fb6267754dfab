/** The fuzz of paged children, as a test. */

import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { runFuzz, withSeed } from '../../fuzz/harness.js';
import { type Case, makeCase, simpler } from './case.js';

test(withSeed('a child reads what the store has or what it wrote, whatever happens'), (t) =>
  runFuzz<Case>(t, {
    program: fileURLToPath(new URL('./main.js', import.meta.url)),
    seconds: 6,
    make: makeCase,
    simpler,
    tries: () => 4, // threads do not meet in the same way every time
  }),
);
