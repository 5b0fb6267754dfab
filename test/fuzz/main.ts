/** The fuzz of segments that are read: see program.ts. */

import { native } from '#dist/native/load.js';
import { backends } from '../helpers/stores.js';
import { makeCase } from './case.js';
import { main, say } from './program.js';
import { runCase } from './run-case.js';
import { endThreads } from './threads.js';

await main({
  make: (seed) => makeCase(seed, backends),
  run: runCase,
  async end() {
    await endThreads();
    say(`census ${JSON.stringify(native().census())}`);
  },
});
