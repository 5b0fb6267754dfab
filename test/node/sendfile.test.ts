/**
 * A long file by way of `sendfile`, and a long segment by way of `vmsplice`, with memory for a small part of them:
 * straight into and from views where system calls bring pages in; elsewhere, after EFAULT, by `readFrom`, `writeTo`.
 */

import assert from 'node:assert/strict';
import fs from 'node:fs';
import { map } from 'pagefault';
import { until } from '../helpers/descriptors.js';
import { type Moving, moving } from '../helpers/moving.js';
import { knownStore, onEachBackend, patternBytes, temporaryPath } from '../helpers/stores.js';
import { onEachWritableBackend, PAGE, writableStore } from '../helpers/writable.js';

const PAGES = 512;
const BYTES = PAGES * PAGE;
const RESIDENT = 32 * PAGE;
/** No border of what is moved at once is one of a page. */
const PART = 5 * PAGE + 123;
const FIRST = 3 * PAGE + 1000;
const COUNT = BYTES - FIRST - 2 * PAGE - 77;

const EFAULT = { code: 'EFAULT' };
type Transfer = Moving['readv'];

/** Part after part of the view, in calls that may do less than they are asked for. */
function all(transfer: Transfer, fd: number, view: Uint8Array, after: () => void = () => {}): void {
  for (let at = 0; at < view.length; after()) {
    const done = transfer(fd, view.subarray(at, at + PART));
    assert.ok(done > 0, `${done} at ${at}`);
    at += done;
  }
}

for (const kind of ['file', 'custom async'] as const) {
  onEachWritableBackend(`a file that sendfile sends goes into a segment and its store: ${kind}`, async (backend) => {
    const { ref, contents } = writableStore(kind, BYTES);
    const segment = await map(ref, { backend, writable: true, resident: RESIDENT });
    const view = segment.view(Uint8Array, FIRST, COUNT);
    const sent = patternBytes(COUNT).map((byte) => byte ^ 0xa5);
    const path = temporaryPath();
    fs.writeFileSync(path, sent);
    const [socket, peer] = moving().sockets();
    moving().later(socket, fs.openSync(path, 'r'), COUNT);
    try {
      if (segment.kernelFaults) all(moving().readv, peer, view);
      else {
        assert.throws(() => moving().readv(peer, view), EFAULT); // and nothing is lost
        assert.equal(await segment.readFrom(peer, { offset: FIRST, byteLength: COUNT }), COUNT);
      }
    } finally {
      fs.closeSync(peer);
    }
    const wanted = patternBytes(BYTES);
    wanted.set(sent, FIRST);
    assert.equal(Buffer.compare(segment.read(0, BYTES), wanted), 0, 'what the segment has');
    await segment.close();
    assert.equal(Buffer.compare(contents(), wanted), 0, 'what the store has');
  });

  onEachBackend(`pages lent by vmsplice keep their bytes when they are evicted: ${kind}`, async (backend) => {
    const segment = await map(knownStore(kind, BYTES).ref, { backend, resident: RESIDENT });
    const view = segment.view(Uint8Array, FIRST, COUNT);
    const path = temporaryPath();
    const [outlet, inlet] = moving().pipe();
    moving().later(fs.openSync(path, 'w'), outlet, COUNT);
    try {
      if (segment.kernelFaults) all(moving().vmsplice, inlet, view, () => segment.release());
      else {
        assert.throws(() => moving().vmsplice(inlet, view), EFAULT);
        assert.equal(await segment.writeTo(inlet, { offset: FIRST, byteLength: COUNT }), COUNT);
      }
    } finally {
      fs.closeSync(inlet);
    }
    await until(() => fs.statSync(path).size === COUNT, 20_000);
    assert.equal(Buffer.compare(fs.readFileSync(path), patternBytes(BYTES).subarray(FIRST, FIRST + COUNT)), 0);
    await segment.close();
  });
}
