/** The fuzz of segments that are written to: see program.ts. */

import { native } from '#dist/native/load.js';
import { main, say } from '../program.js';
import { makeCase } from './case.js';
import { endThreads, runCase } from './run-case.js';

await main({
  make: makeCase,
  run: runCase,
  async end() {
    await endThreads();
    say(`census ${JSON.stringify(native().census())}`);
  },
});
