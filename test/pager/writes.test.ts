/** What the pager asks of stores of writable segments, against a core that only writes down what it is told. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { PageStore } from 'pagefault/stores';
import type { NativeBinding } from '#dist/native/binding.js';
import { PagerServer } from '#dist/pager/server.js';
import { FakeCore, PAGE, serve } from '../helpers/fake-core.js';

const FIRST_WRITE = 3;
const WRITE = 4;
const SYNC = 5;
const MIB = 2 ** 20;

async function until(condition: () => boolean): Promise<void> {
  for (let i = 0; i < 10_000 && !condition(); i++) await sleep(2);
  assert.ok(condition(), String(condition));
}

/** Each of the three orders, as the core gives it, and a store whose answer to it is the given one. */
const orders: [what: string, access: number, code: string, store: (answer: () => unknown) => Partial<PageStore>][] = [
  ['onWrite', FIRST_WRITE, 'ERR_PAGEFAULT_STORE', (answer) => ({ onWrite: () => answer() as undefined })],
  ['write', WRITE, 'ERR_PAGEFAULT_STORE_WRITE', (answer) => ({ write: () => answer() as undefined })],
  ['sync', SYNC, 'ERR_PAGEFAULT_STORE_SYNC', (answer) => ({ sync: () => answer() as undefined })],
];

test('write() gets the bytes of the pages at the offset in the store', () => {
  const core = new FakeCore();
  const server = new PagerServer(core.binding);
  server.start();
  const seen: [offset: number, length: number, first: number | undefined][] = [];
  const store: PageStore = {
    byteLength: 10 * PAGE,
    read: () => 0,
    write: (offset, bytes, how) => {
      assert.equal(how.signal.aborted, false);
      seen.push([offset, bytes.length, bytes.at(-1)]);
    },
  };
  const { number } = server.add(store, { offset: 1000, byteLength: 5 * PAGE + 7, pageSize: undefined, writable: true });
  core.fetched = 7;
  assert.equal(core.dispatch(0, number, PAGE, 2 * PAGE, WRITE, 1000), 0);
  core.fetched = 9;
  assert.equal(core.dispatch(0, number, 4 * PAGE, 2 * PAGE, WRITE, 1000), 0, 'clipped to the part');
  assert.deepEqual(seen, [
    [1000 + PAGE, 2 * PAGE, 7],
    [1000 + 4 * PAGE, PAGE + 7, 9],
  ]);
});

test('the buffer of a slot grows for a write and is not smaller for the next read', () => {
  const { core, number } = serve({ byteLength: 2 * MIB, read: (_offset, into) => into.length, write: () => {} });
  assert.equal(core.dispatch(0, number, 0, PAGE, 0, 1000), PAGE);
  assert.equal(core.buffers.get(0)?.byteLength, PAGE);
  assert.equal(core.dispatch(0, number, 0, MIB, WRITE, 1000), 0);
  const large = core.buffers.get(0);
  assert.equal(large?.byteLength, MIB);
  assert.equal(core.dispatch(0, number, 0, PAGE, 0, 1000), PAGE);
  assert.equal(core.buffers.get(0), large);
});

test('onWrite() gets the page as the store has it, and sync() gets nothing', () => {
  const seen: unknown[][] = [];
  const { core, number } = serve({
    onWrite: (...given) => {
      seen.push(given);
    },
    sync: (...given: unknown[]) => {
      seen.push(given);
    },
  });
  assert.equal(core.dispatch(0, number, 2 * PAGE, PAGE, FIRST_WRITE, 1000), 0);
  assert.equal(core.dispatch(0, number, 0, 0, SYNC, 1000), 0);
  assert.deepEqual(seen, [[2 * PAGE, 100], []]);
  assert.equal(core.buffers.size, 0, 'no buffer is needed');
});

test('a store without sync has nothing to sync, and one without onWrite lets all writes through', () => {
  const { core, number } = serve({ write: () => {} });
  assert.equal(core.dispatch(0, number, 0, 0, SYNC, 1000), 0);
  assert.equal(core.dispatch(0, number, 0, PAGE, FIRST_WRITE, 1000), 0);
});

for (const [what, access, code, store] of orders) {
  test(`${what}() may answer with a promise`, async () => {
    const { core, number } = serve(store(() => sleep(5)));
    assert.equal(core.dispatch(3, number, 0, PAGE, access, 1000), -2);
    assert.deepEqual(core.completed, []);
    await until(() => core.completed.length > 0);
    assert.deepEqual(core.completed, [[3, 0]]);
  });

  test(`what ${what}() returns is not looked at`, async () => {
    for (const answer of [undefined, null, 5, -1, 'done', Promise.resolve(-2)]) {
      const { core, number } = serve(store(() => answer));
      const result = core.dispatch(0, number, 0, PAGE, access, 1000);
      if (result !== 0) await until(() => core.completed.length === 1 && core.completed[0]?.[1] === 0);
      assert.equal(core.failed.length, 0);
    }
  });

  test(`${what}() that fails for good is not tried again`, () => {
    const answer = (): never => {
      throw Object.assign(new Error('read-only'), { permanent: true });
    };
    const { core, number } = serve(store(answer));
    assert.equal(core.dispatch(0, number, 0, PAGE, access, 60_000), -2);
    assert.equal(core.failed[0]?.code, code);
    assert.equal(core.retries, 0);
  });

  test(`${what}() that never settles is given up at the deadline`, async () => {
    const { core, number } = serve(store(() => new Promise(() => {})));
    core.dispatch(0, number, 0, PAGE, access, 40);
    await until(() => core.failed.length > 0);
    assert.equal(core.failed[0]?.code, 'ERR_PAGEFAULT_TIMEOUT');
    assert.match(core.failed[0]?.message ?? '', /within 40 ms$/);
    assert.equal(core.failed[0]?.retired, true);
  });

  test(`${what}() that touches its own segment is told so and not tried again`, () => {
    const { core, number } = serve(store(() => undefined));
    (core.binding as { attemptEnd: NativeBinding['attemptEnd'] }).attemptEnd = () => ({
      region: 1,
      offset: 0,
      code: 'ERR_PAGEFAULT_DEADLOCK',
      errno: 0,
      message: 'a store touched a page that only its own Worker can bring',
      cause: '',
    });
    assert.equal(core.dispatch(0, number, 0, PAGE, access, 1000), -2);
    assert.equal(core.failed[0]?.code, 'ERR_PAGEFAULT_DEADLOCK');
    assert.equal(core.retries, 0);
  });

  test(`closing ends ${what}() that is under way`, async () => {
    const { core, server, number } = serve(store(() => sleep(20)));
    core.dispatch(0, number, 0, PAGE, access, 60_000);
    await server.remove(number);
    assert.equal(core.failed[0]?.code, 'ERR_PAGEFAULT_CLOSED');
    assert.deepEqual(core.completed, []);
  });
}

test('the signal of a write is aborted at its deadline, and its buffer is not used again', async () => {
  const seen: { signal: AbortSignal; buffer: ArrayBufferLike }[] = [];
  const { core, number } = serve({
    write: (_offset, bytes, { signal }) => {
      seen.push({ signal, buffer: bytes.buffer });
      return new Promise(() => {});
    },
  });
  core.dispatch(0, number, 0, PAGE, WRITE, 30);
  await until(() => core.failed.length === 1);
  assert.equal(seen[0]?.signal.aborted, true);
  core.dispatch(0, number, 0, PAGE, WRITE, 30);
  assert.ok(seen[1]?.buffer !== seen[0]?.buffer);
});

test('a newer write of the same bytes aborts the one that was given up, and waits until it has ended', async () => {
  const log: string[] = [];
  let end: (() => void) | undefined;
  const { core, number } = serve({
    byteLength: 100 * PAGE,
    write: (offset, bytes, { signal }) => {
      log.push(`${offset / PAGE}, ${bytes.length / PAGE} pages of ${bytes[0]}`);
      signal.addEventListener('abort', () => log.push('aborted'));
      if (bytes[0] === 1) {
        return new Promise((resolve) => {
          end = resolve;
        });
      }
      return undefined;
    },
  });
  core.fetched = 1;
  core.dispatch(0, number, 2 * PAGE, 4 * PAGE, WRITE, 60_000);
  core.fetched = 2;
  assert.equal(core.dispatch(1, number, 6 * PAGE, PAGE, WRITE, 60_000), 0, 'beside it');
  assert.equal(core.dispatch(2, number, 5 * PAGE, 2 * PAGE, WRITE, 60_000), -2);
  assert.deepEqual(log, ['2, 4 pages of 1', '6, 1 pages of 2', 'aborted']);
  assert.deepEqual(
    core.failed.map(({ slot, retired }) => [slot, retired]),
    [[0, true]],
  );
  await sleep(20);
  assert.equal(log.length, 3);
  end?.();
  await until(() => core.completed.length === 1);
  assert.deepEqual(core.completed, [[2, 0]]);
  assert.equal(log.at(-1), '5, 2 pages of 2');
});

test('a write that nobody waits for any more is aborted soon, long before its deadline', async () => {
  let signal: AbortSignal | undefined;
  const { core, number } = serve({
    write: (_offset, _bytes, how) => {
      signal = how.signal;
      return new Promise(() => {});
    },
  });
  core.dispatch(5, number, 0, PAGE, WRITE, 60_000);
  await sleep(50);
  assert.equal(signal?.aborted, false);
  core.givenUp.add(5);
  await until(() => core.failed.length === 1);
  assert.equal(core.failed[0]?.slot, 5);
  assert.equal(core.failed[0]?.retired, true);
  assert.equal(signal?.aborted, true);
});

test('a store that does not end what was aborted is waited for a second', async () => {
  let calls = 0;
  const { core, number } = serve({
    write: () => {
      calls += 1;
      return calls === 1 ? new Promise(() => {}) : undefined;
    },
  });
  core.dispatch(0, number, 0, PAGE, WRITE, 20);
  await until(() => core.failed.length === 1);
  const start = performance.now();
  core.dispatch(0, number, 0, PAGE, WRITE, 60_000);
  await until(() => core.completed.length === 1);
  const took = performance.now() - start;
  assert.ok(took > 900 && took < 20_000, `${took}`);
});

test('a write whose order the core has taken away is not given to the store', () => {
  let writes = 0;
  const { core, number } = serve({
    write: () => {
      writes += 1;
    },
  });
  core.fetched = -1;
  assert.equal(core.dispatch(0, number, 0, PAGE, WRITE, 1000), -2);
  assert.equal(writes, 0);
  assert.equal(core.failed.length, 1, 'the slot is given back');
});

test('a store whose length has changed is not written to', () => {
  let writes = 0;
  const core = new FakeCore();
  const server = new PagerServer(core.binding);
  server.start();
  const store = {
    byteLength: 2 * PAGE,
    read: () => 0,
    write: () => {
      writes += 1;
    },
  };
  const { number } = server.add(store, { offset: 0, byteLength: undefined, pageSize: undefined, writable: true });
  store.byteLength = PAGE;
  core.dispatch(0, number, 0, PAGE, WRITE, 1000);
  assert.equal(core.failed[0]?.code, 'ERR_PAGEFAULT_STORE_CHANGED');
  assert.equal(writes, 0);
});

test('writes share the places of the store with reads, and neither starves the other', async () => {
  const order: string[] = [];
  let inFlight = 0;
  let most = 0;
  const call = async (what: string, answer: number): Promise<number> => {
    inFlight += 1;
    most = Math.max(most, inFlight);
    order.push(what);
    await sleep(5);
    inFlight -= 1;
    return answer;
  };
  const { core, number } = serve({
    concurrency: 2,
    byteLength: 100 * PAGE,
    read: (offset, into) => call(`read ${offset / PAGE}`, into.length),
    write: async (offset) => {
      await call(`write ${offset / PAGE}`, 0);
    },
  });
  [4, 4, 0, 4, 0, 0].forEach((access, slot) => {
    core.dispatch(slot, number, slot * PAGE, PAGE, access, 5000);
  });
  await until(() => core.completed.length === 6);
  assert.equal(most, 2);
  assert.deepEqual(order.slice(0, 2), ['write 0', 'read 2']);
  assert.deepEqual([...order].sort(), ['read 2', 'read 4', 'read 5', 'write 0', 'write 1', 'write 3']);
  assert.ok(order.indexOf('read 4') < order.indexOf('write 3'), order.join());
  assert.ok(order.indexOf('write 1') < order.indexOf('read 5'), order.join());
});

for (const [what, access, code, store] of orders) {
  if (what === 'sync') continue; // asked once: below
  test(`${what}() that throws or rejects is tried again until it does not`, async () => {
    for (const asynchronous of [false, true]) {
      let tries = 0;
      const answer = (): unknown => {
        tries += 1;
        if (tries > 3) return undefined;
        const error = new Error('not yet');
        if (!asynchronous) throw error;
        return Promise.reject(error);
      };
      const { core, number } = serve(store(answer));
      assert.equal(core.dispatch(0, number, 0, PAGE, access, 20_000), -2);
      await until(() => core.completed.length > 0);
      assert.deepEqual(core.completed, [[0, 0]]);
      assert.equal(core.retries, 3);
    }
  });

  test(`${what}() that goes on failing is given up at the deadline with ${code}`, async () => {
    const answer = (): never => {
      throw new RangeError('the disk is full');
    };
    const { core, number } = serve(store(answer));
    const start = performance.now();
    core.dispatch(0, number, 0, PAGE, access, 200);
    await until(() => core.failed.length > 0);
    const took = performance.now() - start;
    assert.ok(took > 120 && took < 10_000, `${took}`);
    assert.equal(core.failed[0]?.code, code);
    assert.match(core.failed[0]?.message ?? '', /the disk is full/);
    assert.match(core.failed[0]?.cause ?? '', /RangeError/);
  });
}

test('sync() that throws or rejects is not tried again: everything has to be written again first', async () => {
  for (const sync of [() => Promise.reject(new Error('no')), () => assert.fail('no')]) {
    const { core, number } = serve({ write: () => {}, sync });
    core.dispatch(0, number, 0, 0, SYNC, 60_000);
    await until(() => core.failed.length > 0);
    assert.equal(core.failed[0]?.code, 'ERR_PAGEFAULT_STORE_SYNC');
    assert.equal(core.retries, 0);
  }
});
