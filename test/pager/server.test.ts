/** The pager's policy against a core that only writes down what it is told. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { PagerServer } from '#dist/pager/server.js';
import { FakeCore, PAGE, serve } from '../helpers/fake-core.js';

const fill = (offset: number, into: Uint8Array): number => {
  into.fill(offset / PAGE + 1);
  return into.length;
};

test('a synchronous answer is the return value of dispatch', () => {
  const { core, number } = serve({ read: fill });
  assert.equal(core.dispatch(0, number, PAGE, PAGE, 0, 1000), PAGE);
  assert.deepEqual(new Uint8Array(core.buffers.get(0) ?? new ArrayBuffer(0)), new Uint8Array(PAGE).fill(2));
});

test('the last page of a store is asked for only as far as the store goes', () => {
  let wanted = 0;
  const { core, number } = serve({
    read: (_offset, into) => {
      wanted = into.length;
      return into.length;
    },
  });
  assert.equal(core.dispatch(0, number, 2 * PAGE, PAGE, 0, 1000), 100);
  assert.equal(wanted, 100);
});

test('the buffer is a whole page of the segment, however short the read is', () => {
  const core = new FakeCore();
  const server = new PagerServer(core.binding);
  server.start();
  const read = (_offset: number, into: Uint8Array): number => into.length;
  const part = { offset: 0, byteLength: undefined, pageSize: undefined, writable: false };
  const small = server.add({ byteLength: 100, read }, part).number;
  const large = server.add({ byteLength: 100, pageSize: 65536, read }, part).number;
  assert.equal(core.dispatch(0, small, 0, 100, 0, 1000), 100);
  assert.equal(core.buffers.get(0)?.byteLength, PAGE);
  assert.equal(core.dispatch(0, large, 0, 100, 0, 1000), 100);
  assert.equal(core.buffers.get(0)?.byteLength, 65536);
});

test('a segment that begins within the store asks at the offset of the store', () => {
  const core = new FakeCore();
  const server = new PagerServer(core.binding);
  server.start();
  const asked: number[] = [];
  const read = (offset: number, into: Uint8Array): number => {
    asked.push(offset, into.length);
    return into.length;
  };
  const { number } = server.add(
    { byteLength: 10_000, read },
    { offset: 1000, byteLength: 5000, pageSize: undefined, writable: false },
  );
  core.dispatch(0, number, 0, PAGE, 0, 1000);
  core.dispatch(1, number, PAGE, PAGE, 0, 1000);
  assert.deepEqual(asked, [1000, PAGE, 1000 + PAGE, 5000 - PAGE]);
});

test('null opens the page as it is, and chunks are copied in order', () => {
  const answers = [null, [new Uint8Array(PAGE - 1).fill(7), new Uint8Array([9])]];
  const { core, number } = serve({ read: () => answers.shift() ?? null });
  assert.equal(core.dispatch(0, number, 0, PAGE, 0, 1000), -1);
  assert.equal(core.dispatch(0, number, 0, PAGE, 0, 1000), PAGE);
  const bytes = new Uint8Array(core.buffers.get(0) ?? new ArrayBuffer(0));
  assert.equal(bytes[0], 7);
  assert.equal(bytes[PAGE - 1], 9);
});

test('how tells the access, and makes a signal only when it is asked for', () => {
  const seen: string[] = [];
  const { core, number } = serve({
    read: (_offset, into, how) => {
      seen.push(how.access);
      assert.equal(how.signal, how.signal);
      assert.equal(how.signal.aborted, false);
      return into.length;
    },
  });
  for (const access of [0, 1, 2]) core.dispatch(0, number, 0, PAGE, access, 1000);
  assert.deepEqual(seen, ['read', 'write', 'ahead']);
});

test('a promise is answered when it settles', async () => {
  const { core, number } = serve({ read: async (offset, into) => fill(offset, into) });
  assert.equal(core.dispatch(3, number, 0, PAGE, 0, 1000), -2);
  await sleep(5);
  assert.deepEqual(core.completed, [[3, PAGE]]);
});

test('wrong answers fail at once with their code, without another try', async () => {
  const wrong: [unknown, string, RegExp][] = [
    [PAGE - 1, 'ERR_PAGEFAULT_SHORT_READ', /delivered 4095 of 4096 bytes/],
    [0, 'ERR_PAGEFAULT_SHORT_READ', /delivered 0 of/],
    [PAGE + 1, 'ERR_PAGEFAULT_LONG_READ', /delivered 4097 bytes where 4096/],
    [[new Uint8Array(PAGE), new Uint8Array(1)], 'ERR_PAGEFAULT_LONG_READ', /4097/],
    [[], 'ERR_PAGEFAULT_SHORT_READ', /0 of 4096/],
    [['x'], 'ERR_PAGEFAULT_STORE', /not a Uint8Array/],
    [-1, 'ERR_PAGEFAULT_STORE', /read returned -1/],
    [1.5, 'ERR_PAGEFAULT_STORE', /1.5/],
    [Number.NaN, 'ERR_PAGEFAULT_STORE', /NaN/],
    [undefined, 'ERR_PAGEFAULT_STORE', /read returned undefined; it must return/],
    ['4096', 'ERR_PAGEFAULT_STORE', /'4096'/],
    [new Uint8Array(PAGE), 'ERR_PAGEFAULT_STORE', /a Uint8Array/],
  ];
  for (const [answer, code, message] of wrong) {
    for (const wrap of [(value: unknown) => value, (value: unknown) => Promise.resolve(value)]) {
      let reads = 0;
      const read = (): never => {
        reads += 1;
        return wrap(answer) as never;
      };
      const { core, number } = serve({ read });
      assert.equal(core.dispatch(0, number, 0, PAGE, 0, 1000), -2);
      await sleep(3);
      assert.equal(core.failed.length, 1, String(answer));
      assert.equal(core.failed[0]?.code, code);
      assert.match(core.failed[0]?.message ?? '', message);
      assert.equal(core.failed[0]?.retired, false);
      assert.equal(reads, 1);
    }
  }
});

test('a store that throws or rejects is asked again until it answers', async () => {
  for (const asynchronous of [false, true]) {
    let tries = 0;
    const read = (offset: number, into: Uint8Array): number | Promise<number> => {
      tries += 1;
      if (tries < 4) {
        const error = new Error('not yet');
        if (!asynchronous) throw error;
        return Promise.reject(error);
      }
      return fill(offset, into);
    };
    const { core, number } = serve({ read });
    assert.equal(core.dispatch(0, number, 0, PAGE, 0, 20_000), -2);
    while (core.completed.length === 0) await sleep(5);
    assert.deepEqual(core.completed, [[0, PAGE]]);
    assert.equal(core.retries, 3);
    assert.equal(tries, 4);
  }
});

test('a store that goes on failing is given up at the deadline, with its error as the cause', async () => {
  const read = (): never => {
    throw new RangeError('broken');
  };
  const { core, number } = serve({ read });
  const start = performance.now();
  core.dispatch(0, number, 0, PAGE, 0, 200);
  while (core.failed.length === 0) await sleep(5);
  const took = performance.now() - start;
  assert.ok(took > 120 && took < 10_000, `${took}`);
  assert.equal(core.failed[0]?.code, 'ERR_PAGEFAULT_STORE');
  assert.match(core.failed[0]?.message ?? '', /the store failed: broken/);
  assert.match(core.failed[0]?.cause ?? '', /RangeError/);
});

test('whatever is thrown, the order ends once and its place is free again', async () => {
  const thrown: unknown[] = [
    Object.create(null),
    Symbol('no'),
    undefined,
    Object.defineProperty(new Error('x'), 'message', { get: () => assert.fail('not to be read') }),
    Object.defineProperty(new Error('x'), 'code', { get: () => assert.fail('not to be read') }),
    Object.defineProperty(new Error('x'), 'permanent', { get: () => assert.fail('not to be read') }),
  ];
  const ways: ((value: unknown) => unknown)[] = [
    (value) => {
      throw value;
    },
    (value) => Promise.reject(value),
    (value) =>
      Object.defineProperty({}, 'then', {
        value: () => {
          throw value;
        },
      }),
  ];
  for (const value of thrown) {
    for (const way of ways) {
      let reads = 0;
      const read = (offset: number, into: Uint8Array): never =>
        (reads++ === 0 || offset === 0 ? way(value) : fill(offset, into)) as never;
      const { core, number } = serve({ concurrency: 1, read });
      core.dispatch(0, number, 0, PAGE, 0, 100);
      while (core.failed.length === 0) await sleep(5);
      assert.equal(core.failed[0]?.slot, 0);
      assert.equal(core.failed[0]?.code, 'ERR_PAGEFAULT_STORE');
      assert.equal(core.dispatch(0, number, PAGE, PAGE, 0, 1000), PAGE, 'the place is free');
      await sleep(110);
      assert.equal(core.failed.length, 1, 'its deadline does not fail what has the slot now');
    }
  }
});

test('an error that is permanent fails at once', async () => {
  const read = (): never => {
    throw Object.assign(new Error('no such object'), { permanent: true });
  };
  const { core, number } = serve({ read });
  core.dispatch(0, number, 0, PAGE, 0, 5000);
  assert.equal(core.failed[0]?.code, 'ERR_PAGEFAULT_STORE');
  assert.equal(core.retries, 0);
});

test('a promise that never settles is aborted at the deadline, and its buffer is not used again', async () => {
  let signal: AbortSignal | undefined;
  const seen: ArrayBufferLike[] = [];
  const { core, number } = serve({
    read: (_offset, into, how) => {
      signal = how.signal;
      seen.push(into.buffer);
      return new Promise(() => {});
    },
  });
  core.dispatch(0, number, 0, PAGE, 0, 40);
  while (core.failed.length === 0) await sleep(5);
  assert.equal(core.failed[0]?.code, 'ERR_PAGEFAULT_TIMEOUT');
  assert.equal(core.failed[0]?.retired, true);
  assert.equal(signal?.aborted, true);
  // The next page in that slot gets another buffer.
  core.dispatch(0, number, 0, PAGE, 0, 40);
  assert.equal(seen.length, 2);
  assert.ok(seen[0] !== seen[1]);
});

test('an answer that comes after the deadline is not taken', async () => {
  const { core, number } = serve({
    read: async (offset, into) => {
      await sleep(80);
      return fill(offset, into);
    },
  });
  core.dispatch(0, number, 0, PAGE, 0, 20);
  await sleep(120);
  assert.equal(core.failed.length, 1);
  assert.deepEqual(core.completed, []);
});

test('no more reads are in flight than the store allows, and those waited for go first', async () => {
  let inFlight = 0;
  let most = 0;
  const order: string[] = [];
  const { core, number } = serve({
    concurrency: 2,
    byteLength: 100 * PAGE,
    read: async (offset, into, how) => {
      inFlight += 1;
      most = Math.max(most, inFlight);
      order.push(`${how.access} ${offset / PAGE}`);
      await sleep(10);
      inFlight -= 1;
      return into.length;
    },
  });
  [2, 2, 2, 0, 2, 0].forEach((access, slot) => {
    core.dispatch(slot, number, slot * PAGE, PAGE, access, 5000);
  });
  while (core.completed.length < 6) await sleep(5);
  assert.equal(most, 2);
  assert.deepEqual(order, ['ahead 0', 'ahead 1', 'read 3', 'read 5', 'ahead 2', 'ahead 4']);
});

test('a read ahead that somebody comes to wait for goes with what is waited for', async () => {
  const order: string[] = [];
  const { core, number } = serve({
    concurrency: 1,
    byteLength: 100 * PAGE,
    read: async (offset, into, how) => {
      order.push(`${how.access} ${offset / PAGE}`);
      await sleep(10);
      if (order.length === 1) throw new Error('not now');
      return into.length;
    },
  });
  for (let slot = 0; slot < 6; slot++) core.dispatch(slot, number, slot * PAGE, PAGE, 2, 5000);
  core.dispatch(6, number, 6 * PAGE, PAGE, 0, 5000);
  for (const slot of [4, 0, 4]) core.dispatch(slot, 0, 0, 0, 6, 0); // the store has 0
  while (core.completed.length < 7) await sleep(5);
  assert.deepEqual(order.slice(0, 3), ['ahead 0', 'read 6', 'read 4']);
  assert.deepEqual(order.slice(3).sort(), ['ahead 1', 'ahead 2', 'ahead 3', 'ahead 5', 'read 0']);
});

test('a read ahead that somebody comes to wait for gets a place that is kept for such', async () => {
  const order: string[] = [];
  const { core, number } = serve({
    concurrency: 4,
    byteLength: 100 * PAGE,
    read: (offset, into, how) => {
      order.push(`${how.access} ${offset / PAGE}`);
      return how.access === 'ahead' ? new Promise<number>(() => {}) : into.length;
    },
  });
  for (let slot = 0; slot < 6; slot++) core.dispatch(slot, number, slot * PAGE, PAGE, 2, 5000);
  for (const slot of [5, 1, 3]) core.dispatch(slot, 0, 0, 0, 6, 0);
  while (core.completed.length < 2) await sleep(5);
  assert.deepEqual(order, ['ahead 0', 'ahead 1', 'ahead 2', 'read 5', 'read 3']);
  assert.deepEqual(core.completed, [
    [5, PAGE],
    [3, PAGE],
  ]);
});

test('a read of more than a page stays one ahead for the store', async () => {
  const order: string[] = [];
  const { core, number } = serve({
    concurrency: 1,
    byteLength: 100 * PAGE,
    read: async (offset, into, how) => {
      order.push(`${how.access} ${offset / PAGE} ${into.length / PAGE}`);
      await sleep(10);
      return into.length;
    },
  });
  core.dispatch(0, number, 0, 4 * PAGE, 0, 5000); // the core says so of one that somebody came to wait for in its queue
  for (const slot of [1, 2]) core.dispatch(slot, number, slot * 4 * PAGE, 4 * PAGE, 2, 5000);
  core.dispatch(3, number, 12 * PAGE, PAGE, 2, 5000);
  for (const slot of [3, 2]) core.dispatch(slot, 0, 0, 0, 6, 0);
  while (core.completed.length < 4) await sleep(5);
  assert.deepEqual(order, ['ahead 0 4', 'read 12 1', 'ahead 8 4', 'ahead 4 4']);
});

test('a page that was invalidated while it was read is read again', async () => {
  let reads = 0;
  const { core, number } = serve({
    read: async (offset, into) => {
      reads += 1;
      return fill(offset, into);
    },
  });
  core.invalidated = 1;
  core.dispatch(0, number, 0, PAGE, 0, 1000);
  await sleep(20);
  assert.equal(reads, 2);
  assert.equal(core.completed.length, 2);
});

test('a pager that could not be started has nothing to stop', () => {
  const core = new FakeCore();
  (core.binding as { pagerOpen: unknown }).pagerOpen = () => assert.fail('no descriptor is left');
  const server = new PagerServer(core.binding);
  assert.throws(() => server.start(), /no descriptor/);
  server.stop('its Worker has ended');
});

test('a store whose length changes fails its reads', () => {
  let byteLength = 2 * PAGE;
  const { core, number } = serve({
    get byteLength() {
      return byteLength;
    },
    read: fill,
  });
  // The spread above has read the getter, so the store is given again with it alive.
  const server = new PagerServer(core.binding);
  server.start();
  const live = server.add(
    {
      get byteLength() {
        return byteLength;
      },
      read: fill,
    },
    { offset: 0, byteLength: undefined, pageSize: undefined, writable: false },
  );
  assert.equal(number, 0);
  byteLength = PAGE;
  assert.equal(core.dispatch(0, live.number, 0, PAGE, 0, 1000), -2);
  assert.equal(core.failed[0]?.code, 'ERR_PAGEFAULT_STORE_CHANGED');
  assert.match(core.failed[0]?.message ?? '', /had 8192 bytes when it was opened and has 4096 now/);
});

test('closing a store aborts what is in flight and then calls its close', async () => {
  const log: string[] = [];
  const { core, server, number } = serve({
    read: (_offset, _into, how) =>
      new Promise((_resolve, reject) => {
        how.signal.addEventListener('abort', () => {
          log.push('aborted');
          reject(new Error('aborted'));
        });
      }),
    close: () => {
      log.push('closed');
    },
  });
  core.dispatch(0, number, 0, PAGE, 0, 60_000);
  await server.remove(number);
  assert.deepEqual(log, ['aborted', 'closed']);
  assert.equal(core.failed.length, 1);
  assert.equal(core.dispatch(0, number, 0, PAGE, 0, 1000), -2);
  assert.equal(core.failed[1]?.code, 'ERR_PAGEFAULT_CLOSED');
});
