/** What somebody waits for is not collected with him; what nobody can reach, hear of or wait for any more is. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { map, type PageErrorEvent, type Segment } from 'pagefault';
import { custom } from 'pagefault/stores';
import { CONTROL, type FaultyOptions, makeControl, setMode } from '../fixtures/faulty.js';
import { until } from '../helpers/descriptors.js';
import { onEachBackend } from '../helpers/stores.js';
import { PAGE } from '../helpers/writable.js';

setFlagsFromString('--expose-gc');
const gc = runInNewContext('gc') as () => void;

/** Garbage is collected all the time, until it has settled. */
async function collecting<T>(work: () => Promise<T>): Promise<T> {
  const timer = setInterval(gc, 20);
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}

async function faulty(control: Int32Array<SharedArrayBuffer>, options: object): Promise<Segment> {
  const store: FaultyOptions = { byteLength: 16 * PAGE, control: control.buffer };
  return await map(custom(new URL('../fixtures/faulty.js', import.meta.url), store), { readahead: 0, ...options });
}

/** Its store is closed when it has ended. */
async function isCollected(control: Int32Array): Promise<void> {
  await collecting(() => until(() => Atomics.load(control, CONTROL.closed) === 1));
}

onEachBackend('an event that somebody awaits is told, and then the segment can be collected', async (backend) => {
  const control = makeControl();
  setMode(control, 'permanent');
  const code = await collecting(async () => {
    const segment = await faulty(control, { backend, pollIntervalMs: 200 });
    const told = once(segment, 'pageerror') as Promise<[PageErrorEvent]>;
    assert.throws(() => segment.read(0, 1), { code: 'ERR_PAGEFAULT_STORE' });
    const [{ error }] = await told;
    return error.code;
  });
  assert.equal(code, 'ERR_PAGEFAULT_STORE');
  await isCollected(control);
});

onEachBackend('a segment that nobody listens to any more, or ever did, can be collected', async (backend) => {
  for (const listens of [true, false]) {
    const control = makeControl();
    await (async () => {
      const segment = await faulty(control, { backend, pollIntervalMs: 50 });
      const listener = (): void => assert.fail('nothing has failed');
      if (listens) segment.addEventListener('stall', listener);
      await collecting(() => new Promise((resolve) => setTimeout(resolve, 200)));
      segment.removeEventListener('stall', listener);
    })();
    await isCollected(control);
  }
});

onEachBackend('what is under way holds the segment', async (backend) => {
  const control = makeControl();
  setMode(control, 'slow');
  const begin: ((segment: Segment) => Promise<unknown>)[] = [
    (segment) => segment.load(),
    (segment) => segment.pin(0, 16 * PAGE),
    (segment) => segment.createReadStream({ highWaterMark: PAGE }).toArray(),
  ];
  await collecting(async () => {
    for (const work of begin) await work(await faulty(control, { backend }));
  });
  await collecting(() => until(() => Atomics.load(control, CONTROL.closed) === begin.length));
});
