/** Loads that are aborted end, whatever others do. */

import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { map } from 'pagefault';
import { custom } from 'pagefault/stores';
import { temporaryPath } from '../helpers/stores.js';

test('a load that is aborted ends at once, although as many as run at a time hang in their store', async () => {
  const path = `${temporaryPath()}.mjs`;
  writeFileSync(
    path,
    `export default () => ({
      byteLength: 8192,
      read: (offset, into) => (offset === 0 ? new Promise(() => {}) : into.fill(7).length),
    });`,
  );
  const segment = await map(custom(path), { pageSize: 4096 });
  try {
    const hanging = new AbortController();
    let ended = 0;
    const stuck = Array.from({ length: 8 }, () =>
      assert.rejects(segment.load(0, 4096, { signal: hanging.signal }), { message: 'at last' }).finally(() => {
        ended += 1;
      }),
    );
    const soon = new AbortController();
    const waiting = segment.load(4096, 4096, { signal: soon.signal });
    soon.abort(new Error('changed my mind'));
    await assert.rejects(waiting, { message: 'changed my mind' });
    assert.equal(ended, 0);
    hanging.abort(new Error('at last'));
    await Promise.all(stuck);
    await segment.load(4096, 4096);
    assert.equal(segment.view(Uint8Array)[4096], 7);
  } finally {
    await segment.close();
  }
});
