/** The fuzz of paged children: see program.ts. What a slice leaves behind is a failure of its own. */

import { GuestEngine } from 'pagefault/guests';
import { main } from '../../fuzz/program.js';
import { openFds, until } from '../../helpers/descriptors.js';
import { makeCase } from './case.js';
import { runCase } from './run-case.js';

let before = 0;

await main({
  make: makeCase,
  run: runCase,
  async begin() {
    // The core opens descriptors of its own, once: for the event loop's children, and for those of its threads.
    await runCase({ ...makeCase(0), store: 'memory' });
    await new GuestEngine().close();
    before = openFds();
  },
  async end() {
    await until(() => openFds() <= before, 5000);
  },
});
