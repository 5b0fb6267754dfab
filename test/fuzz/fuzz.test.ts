/** The fuzz of segments that are read, as a test. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { backends } from '../helpers/stores.js';
import { type Case, makeCase } from './case.js';
import { last, runFuzz, withSeed } from './harness.js';
import { fewer } from './shrink.js';

test(withSeed('what is read is what the store has, whatever is done in between'), (t) =>
  runFuzz<Case>(t, {
    program: fileURLToPath(new URL('./main.js', import.meta.url)),
    seconds: 6,
    make: (seed) => makeCase(seed, backends),
    simpler: fewer,
    tries: ({ threads, exact }) => (threads.length > 0 || !exact ? 4 : 1),
    after(ran, passed) {
      const { regions, threads } = JSON.parse(last(ran, 'census') ?? '{}');
      // Shared memory stays registered until it is collected, or for good.
      assert.ok(regions <= passed * 3 && threads < 64, `${regions} regions and ${threads} loader threads are left`);
    },
  }),
);
