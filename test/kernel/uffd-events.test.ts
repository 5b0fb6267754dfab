/** Faults and other events of a userfaultfd, with Workers that touch the memory while this thread serves. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { UffdError } from 'pagefault';
import { Mapping, type PagefaultEvent, pageSize, Uffd, type UffdEvent, UnixSocket } from 'pagefault/kernel';
import { readFailure, toEvents } from '#dist/kernel/uffd-events.js';
import { compileC } from '../helpers/compile-c.js';
import { openFds, until } from '../helpers/descriptors.js';
import { pending } from '../helpers/facts.js';
import { run } from '../helpers/run.js';
import { closeAll, nextEvent, toucher } from '../helpers/toucher.js';

const TIMEOUT = { timeout: 60_000 };
const PAGE = pageSize();
const filled = (value: number, pages = 1): Uint8Array => new Uint8Array(pages * PAGE).fill(value);

test('one fault is read, answered, and the thread goes on', TIMEOUT, async () => {
  const uffd = Uffd.open({ features: ['thread-id'] });
  const mapping = Mapping.anonymous(2 * PAGE);
  const thread = await toucher();
  uffd.register(mapping, 'missing');
  const read = thread.order('read', mapping, PAGE + 5);
  const event = (await nextEvent(uffd)) as PagefaultEvent;
  assert.equal(event.type, 'pagefault');
  assert.equal(event.kind, 'missing');
  assert.equal(event.access, 'read');
  assert.equal(event.address, mapping.address + BigInt(PAGE));
  assert.ok((event.thread ?? 0) > 0 && event.thread !== process.pid);
  assert.equal(uffd.copy(event.address, filled(7)), PAGE);
  assert.equal(await read, 7);
  const write = thread.order('write', mapping, 0, 9);
  assert.equal(((await nextEvent(uffd)) as PagefaultEvent).access, 'write');
  uffd.zeropage({ address: mapping.address, byteLength: PAGE });
  assert.equal(await write, 9);
  await thread.end();
  closeAll(uffd, mapping);
});

test('a non-blocking descriptor has no event until there is one', TIMEOUT, async () => {
  const uffd = Uffd.open();
  const mapping = Mapping.anonymous(PAGE);
  const thread = await toucher();
  uffd.register(mapping, 'missing');
  assert.equal(uffd.readEvent(), undefined);
  assert.deepEqual(uffd.readEvents(), []);
  assert.deepEqual(uffd.readEvents(new Uint8Array(32)), []);
  const read = thread.order('read', mapping);
  const event = await nextEvent(uffd);
  assert.equal(event.type === 'pagefault' && event.thread, undefined);
  assert.equal(uffd.readEvent(), undefined);
  uffd.zeropage(mapping);
  assert.equal(await read, 0);
  await thread.end();
  closeAll(uffd, mapping);
});

test('the faults of five threads are read at once, into a buffer that is used again', TIMEOUT, async () => {
  const uffd = Uffd.open();
  const mapping = Mapping.anonymous(5 * PAGE);
  const threads = await Promise.all(Array.from({ length: 5 }, toucher));
  uffd.register(mapping, 'missing');
  const reads = threads.map((thread, i) => thread.order('read', mapping, i * PAGE));
  const buffer = new Uint8Array(5 * 32 + 31);
  const seen: UffdEvent[] = [];
  await pending(uffd, 5); // all of them wait
  seen.push(...uffd.readEvents(buffer));
  assert.equal(seen.length, 5);
  const addresses = seen.map((event) => event.type === 'pagefault' && event.address);
  assert.deepEqual(new Set(addresses), new Set([0, 1, 2, 3, 4].map((i) => mapping.address + BigInt(i * PAGE))));
  for (const [i] of reads.entries()) uffd.copy(mapping.address + BigInt(i * PAGE), filled(i + 1));
  assert.deepEqual(await Promise.all(reads), [1, 2, 3, 4, 5]);
  await Promise.all(threads.map((thread) => thread.end()));
  closeAll(uffd, mapping);
});

test('a page that was missing is write-protected, and the write to it is a fault of its own', TIMEOUT, async () => {
  const uffd = Uffd.open({ features: ['pagefault-flag-wp'] });
  const mapping = Mapping.anonymous(PAGE);
  const thread = await toucher();
  const ioctls = uffd.register(mapping, ['missing', 'write-protect']);
  assert.ok(ioctls.has('writeprotect'));
  const write = thread.order('write', mapping, 3, 8);
  const missing = (await nextEvent(uffd)) as PagefaultEvent;
  assert.equal(missing.kind, 'missing');
  assert.equal(missing.access, 'write');
  uffd.copy(mapping.address, filled(1), { writeProtect: true });
  const protectedFault = (await nextEvent(uffd)) as PagefaultEvent;
  assert.equal(protectedFault.kind, 'write-protect');
  assert.equal(protectedFault.access, 'write');
  uffd.removeWriteProtection(mapping);
  assert.equal(await write, 8);
  uffd.writeProtect(mapping);
  assert.equal(await thread.order('read', mapping, 0), 1);
  const again = thread.order('write', mapping, 4, 6);
  assert.equal(((await nextEvent(uffd)) as PagefaultEvent).kind, 'write-protect');
  uffd.removeWriteProtection(mapping, { wake: false });
  await sleep(30);
  uffd.wake(mapping);
  assert.equal(await again, 6);
  await thread.end();
  closeAll(uffd, mapping);
});

test(
  'a woken thread that finds nothing new faults again, and copy without wake leaves it waiting',
  TIMEOUT,
  async () => {
    const uffd = Uffd.open();
    const mapping = Mapping.anonymous(PAGE);
    const thread = await toucher();
    uffd.register(mapping, 'missing');
    let through = false;
    const read = thread.order('read', mapping).finally(() => {
      through = true;
    });
    const first = await nextEvent(uffd);
    uffd.wake(mapping);
    assert.deepEqual(await nextEvent(uffd), first);
    uffd.copy(mapping.address, filled(4), { wake: false });
    await sleep(50);
    assert.equal(through, false);
    assert.deepEqual(uffd.resolve(mapping.address, filled(5)), {
      status: 'done',
      byteLength: PAGE,
      copied: 0,
      present: PAGE,
    });
    assert.equal(await read, 4);
    await thread.end();
    closeAll(uffd, mapping);
  },
);

test(
  'dropping and unmapping are events, until whose reading copies say EAGAIN and resolve says again',
  TIMEOUT,
  async () => {
    const uffd = Uffd.open({ features: ['event-remove', 'event-unmap'] });
    const mapping = Mapping.anonymous(4 * PAGE);
    const thread = await toucher();
    uffd.register(mapping, 'missing');
    const part = { address: mapping.address, byteLength: 2 * PAGE };
    const dropped = thread.order('drop', part);
    await until(() => uffd.resolve(mapping.address + BigInt(3 * PAGE), filled(1)).status === 'again');
    assert.throws(() => uffd.copy(mapping.address + BigInt(2 * PAGE), filled(1)), {
      code: 'ERR_PAGEFAULT_COPY_FAILED',
      errno: 11,
      message: /an event has not been read/,
    });
    const end = part.address + BigInt(2 * PAGE);
    assert.deepEqual(await nextEvent(uffd), { type: 'remove', start: part.address, end });
    assert.equal(await dropped, 0);
    const unmapped = thread.order('unmap', part);
    assert.deepEqual(await nextEvent(uffd), { type: 'unmap', start: part.address, end });
    assert.equal(await unmapped, 0);
    assert.equal(uffd.resolve(part.address, filled(1)).status, 'unmapped');
    await thread.end();
    uffd.close();
  },
);

test('a fork brings the userfaultfd of the child, which is gone when it has ended', TIMEOUT, async (t) => {
  try {
    Uffd.open({ features: ['event-fork'] }).close();
  } catch (error) {
    assert.match(String(error), /event-fork needs CAP_SYS_PTRACE/);
    return t.skip('event-fork needs CAP_SYS_PTRACE');
  }
  const before = openFds();
  const [ours, theirs] = UnixSocket.pair();
  const child = spawn(compileC('forker.c'), [], { stdio: ['ignore', 'ignore', 'inherit', theirs.fd] });
  const exited = once(child, 'exit');
  theirs.close();
  await until(() => {
    ours.fill();
    return ours.available === 16;
  });
  const words = new BigUint64Array((ours.read(16) as Uint8Array).slice().buffer);
  const [address = 0n, place = 0n] = words;
  const uffd = Uffd.fromFd(ours.takeFd() as number);
  assert.equal(uffd.openedBy, 'adopted');
  assert.deepEqual(uffd.features.names, ['event-fork', 'event-remap']);
  const event = await nextEvent(uffd);
  assert.ok(event.type === 'fork');
  assert.equal(event.uffd.nonBlocking, true);
  assert.deepEqual(event.uffd.features.names, uffd.features.names);
  const fault = (await nextEvent(event.uffd)) as PagefaultEvent;
  assert.equal(fault.address, address);
  assert.equal(event.uffd.copy(address, filled(42)), PAGE);
  assert.deepEqual(await nextEvent(uffd), { type: 'remap', from: address, to: place, byteLength: PAGE });
  assert.equal((await exited)[0], 42);
  const gone = { status: 'gone', byteLength: 0, copied: 0, present: 0 };
  assert.deepEqual(event.uffd.resolve(address, filled(1)), gone);
  assert.deepEqual(uffd.resolve(place, 'zero'), gone);
  assert.throws(() => uffd.copy(place, filled(1)), { errno: 3, message: /has ended/ });
  for (const each of [event.uffd, uffd, ours]) each.close();
  assert.equal(openFds(), before);
});

test('a message of a newer kernel is kept whole, and a descriptor in a fork is adopted once', TIMEOUT, () => {
  const bytes = new Uint8Array(96);
  const view = new DataView(bytes.buffer);
  bytes[0] = 0x77;
  bytes[31] = 5;
  bytes[32] = 0x13;
  view.setUint32(40, 1234, true);
  bytes[64] = 0x12;
  view.setBigUint64(72, 0x8000_0004n, true);
  view.setUint32(88, 17, true);
  const adopted: number[] = [];
  const uffd = Uffd.open();
  const events = toEvents(view, 96, true, (fd) => {
    adopted.push(fd);
    return uffd;
  });
  assert.deepEqual(events[0], { type: 'unknown', event: 0x77, message: bytes.slice(0, 32) });
  assert.deepEqual(events[1], { type: 'fork', uffd });
  const fault = { type: 'pagefault', kind: 'minor', access: 'read', address: 0n, thread: 17, flags: 0x8000_0004n };
  assert.deepEqual(events[2], fault);
  assert.deepEqual(adopted, [1234]);
  assert.equal((readFailure(0) as { code?: string }).code, 'ERR_PAGEFAULT_READ_EOF');
  const short = readFailure(7) as UffdError;
  assert.deepEqual([short.code, short.read, short.expected], ['ERR_PAGEFAULT_INCOMPLETE_MESSAGE', 7, 32]);
  uffd.close();
});

test('the event loop says when there is something to read', TIMEOUT, async () => {
  const before = openFds();
  const uffd = Uffd.open();
  const mapping = Mapping.anonymous(8 * PAGE);
  const thread = await toucher();
  uffd.register(mapping, 'missing');
  const watch = uffd.onReadable(() => {
    for (const event of uffd.readEvents()) {
      if (event.type === 'pagefault') uffd.resolve(event.address, filled(3));
    }
  });
  for (let page = 0; page < 8; page++) assert.equal(await thread.order('read', mapping, page * PAGE), 3);
  await thread.end();
  mapping.unmap();
  uffd.close();
  assert.equal(watch.closed, true);
  const blocking = Uffd.open({ nonBlocking: false });
  assert.throws(() => blocking.onReadable(() => {}), /nonBlocking: true/);
  blocking.close();
  await until(() => openFds() === before);
});

test('onEvents reads by itself, and tells when', TIMEOUT, async () => {
  const before = openFds();
  const uffd = Uffd.open();
  const mapping = Mapping.anonymous(8 * PAGE);
  const thread = await toucher();
  uffd.register(mapping, 'missing');
  const seen: number[] = [];
  const watch = uffd.onEvents(
    (events, at) => {
      const age = Number(process.hrtime.bigint()) / 1e6 - at;
      assert.ok(age >= 0 && age < 20_000, `${age} ms`);
      seen.push(events.length);
      for (const event of events) {
        assert.equal(event.type, 'pagefault');
        if (event.type === 'pagefault') uffd.resolve(event.address, filled(5));
      }
    },
    { busyPollUs: 20 },
  );
  for (let page = 0; page < 8; page++) assert.equal(await thread.order('read', mapping, page * PAGE), 5);
  assert.deepEqual(seen, new Array(8).fill(1));
  await thread.end();
  mapping.unmap();
  uffd.close();
  assert.equal(watch.closed, true);
  assert.throws(() => uffd.onEvents(() => {}), { code: 'ERR_PAGEFAULT_CLOSED' });
  const blocking = Uffd.open({ nonBlocking: false });
  assert.throws(() => blocking.onEvents(() => {}), /nonBlocking: true/);
  blocking.close();
  await until(() => openFds() === before);
});

test('a thread that waits in a blocking read is not disturbed by a profiler’s signals', TIMEOUT, async () => {
  const program = `
    import { Worker } from 'node:worker_threads';
    import { Session } from 'node:inspector';
    import { Mapping, Uffd } from 'pagefault/kernel';
    const session = new Session();
    session.connect();
    session.post('Profiler.enable');
    session.post('Profiler.setSamplingInterval', { interval: 100 });
    session.post('Profiler.start');
    const uffd = Uffd.open({ nonBlocking: false });
    const mapping = Mapping.anonymous(${PAGE});
    uffd.register(mapping, 'missing');
    const worker = new Worker(\`
      import { parentPort, workerData } from 'node:worker_threads';
      import { Mapping } from 'pagefault/kernel';
      const bytes = new Uint8Array(Mapping.bufferAt(workerData));
      parentPort.postMessage('ready');
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 300);
      process.exitCode = bytes[0];
    \`, { eval: true, workerData: { address: mapping.address, byteLength: ${PAGE} } });
    await new Promise((resolve) => worker.once('message', resolve));
    const event = uffd.readEvent();
    uffd.resolve(event.address, new Uint8Array(${PAGE}).fill(9));
    process.stdout.write(event.type);
  `;
  const ran = await run(process.execPath, ['--input-type=module', '-e', program], { timeoutMs: 30_000 });
  assert.deepEqual([ran.stderr, ran.stdout, ran.code], ['', 'pagefault', 0]);
});

test('a Worker opens and closes one without a warning, and a descriptor that is gone is told', TIMEOUT, async () => {
  const worker = new Worker(
    `const { parentPort } = require('node:worker_threads');
     const warnings = [];
     process.on('warning', (warning) => warnings.push(warning.message));
     import('pagefault/kernel').then(({ Uffd, closeFd }) => {
       Uffd.open().close();
       try { Uffd.open({ features: 1n << 60n }); } catch {}
       const uffd = Uffd.open();
       closeFd(uffd.fd);
       try { uffd.close(); } catch (error) { warnings.push(error.message); }
       setTimeout(() => parentPort.postMessage(warnings), 20);
     });`,
    { eval: true },
  );
  const [[said, ...more]] = (await once(worker, 'message')) as [string[]];
  assert.match(String(said), /had been closed by somebody else .*EBADF/);
  assert.deepEqual(more, []);
  await worker.terminate();
});

test('a buffer that holds no message is refused and loses nothing', TIMEOUT, () => {
  const uffd = Uffd.open();
  assert.throws(() => uffd.readEvents(new Uint8Array(31)), { name: 'RangeError', code: 'ERR_PAGEFAULT_OUT_OF_RANGE' });
  assert.throws(() => uffd.readEvents('32' as unknown as Uint8Array), { name: 'TypeError' });
  uffd.close();
  assert.throws(() => uffd.readEvent(), { code: 'ERR_PAGEFAULT_CLOSED', message: 'this Uffd is closed' });
});
