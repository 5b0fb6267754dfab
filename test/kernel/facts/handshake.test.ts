/** Handshake, poll, read: facts 1 to 3 of docs/kernel.md, and the order in which messages are read. */
import assert from 'node:assert/strict';
import { closeSync, constants as file } from 'node:fs';
import { constants } from 'node:os';
import { SignalFd, type UffdEvent } from 'pagefault/kernel';
import { native } from '#dist/native/load.js';
import { until } from '../../helpers/descriptors.js';
import { at, fact, filled, PAGE, pagesOf, pending, stillWaits } from '../../helpers/facts.js';
import { nextEvent } from '../../helpers/toucher.js';

const { EAGAIN, EINVAL } = constants.errno;
const USER_MODE_ONLY = 1;
const handshake = (fd: number, features: bigint): number => native().uffdHandshake(fd, features, new BigUint64Array(2));

fact('1. a second handshake on one descriptor is EINVAL', {}, (bench) => {
  assert.equal(handshake(bench.uffd().fd, 0n), -EINVAL);
});

fact('1. a feature that the kernel does not know is EINVAL, and the same descriptor may try again', {}, (bench) => {
  const fd = native().uffdOpen(USER_MODE_ONLY | file.O_NONBLOCK, -1);
  bench.undo(() => closeSync(fd));
  assert.equal(handshake(fd, 1n << 60n), -EINVAL);
  assert.equal(handshake(fd, 0n), 0);
});

fact('1. before the handshake nothing can be registered or read', {}, (bench) => {
  const fd = native().uffdOpen(USER_MODE_ONLY | file.O_NONBLOCK, -1);
  bench.undo(() => closeSync(fd));
  const memory = bench.memory(1);
  assert.equal(native().uffdRegister(fd, memory.address, PAGE, 1, new BigUint64Array(1)), -EINVAL);
  assert.equal(native().uffdRead(fd, new Uint8Array(32)), -EINVAL);
});

fact('2. poll says "error" before the handshake, and always of a blocking descriptor', {}, (bench) => {
  for (const [flags, after] of [
    [file.O_NONBLOCK, 0],
    [0, 1],
  ] as const) {
    const fd = native().uffdOpen(USER_MODE_ONLY | flags, -1);
    bench.undo(() => closeSync(fd));
    assert.equal(native().descriptorIsReadable(fd), 1);
    assert.equal(handshake(fd, 0n), 0);
    assert.equal(native().descriptorIsReadable(fd), after);
  }
});

fact('2. a read is EAGAIN where there is nothing, and EINVAL into less than a message', {}, (bench) => {
  const { fd } = bench.uffd();
  assert.equal(native().uffdRead(fd, new Uint8Array(32)), -EAGAIN);
  assert.equal(native().uffdRead(fd, new Uint8Array(31)), -EINVAL);
});

fact('2. a fault that is resolved before it is read is never read', {}, async (bench) => {
  const uffd = bench.uffd();
  const memory = bench.memory(1);
  uffd.register(memory, 'missing');
  const thread = await bench.thread();
  const read = thread.read(memory);
  await pending(uffd, 1);
  assert.equal(native().descriptorIsReadable(uffd.fd), 1);
  uffd.copy(memory.address, filled(5));
  assert.equal(await read, 5);
  assert.equal(uffd.readEvent(), undefined);
});

fact('3. three threads on one page are three messages, and one copy wakes them all', {}, async (bench) => {
  const uffd = bench.uffd();
  const memory = bench.memory(1);
  uffd.register(memory, 'missing');
  const threads = await Promise.all([bench.thread(), bench.thread(), bench.thread()]);
  const reads = threads.map((thread) => thread.read(memory));
  await pending(uffd, 3);
  assert.equal(uffd.readEvents().length, 3);
  uffd.copy(memory.address, filled(6));
  assert.deepEqual(await Promise.all(reads), [6, 6, 6]);
});

fact('3. a wake that changes nothing makes the same message again', {}, async (bench) => {
  const uffd = bench.uffd();
  const memory = bench.memory(2);
  uffd.register(memory, 'missing');
  const thread = await bench.thread();
  const read = thread.read(memory, 1);
  const first = await nextEvent(uffd);
  uffd.wake(pagesOf(memory, 1));
  assert.deepEqual(await nextEvent(uffd), first);
  uffd.copy(at(memory, 1), filled(7));
  assert.equal(await read, 7);
});

fact('3. a signal to a thread that waits makes the same message again', {}, async (bench) => {
  const uffd = bench.uffd();
  const memory = bench.memory(1);
  uffd.register(memory, 'missing');
  const thread = await bench.thread();
  const read = thread.read(memory);
  const first = await nextEvent(uffd);
  SignalFd.open(['SIGWINCH']).close(); // sends a real-time signal to each thread
  assert.deepEqual(await nextEvent(uffd), first);
  assert.ok(await stillWaits(read));
  uffd.copy(memory.address, filled(8));
  assert.equal(await read, 8);
  await until(() => uffd.readEvent() === undefined);
  // whoever serves the second message too finds the page there
  assert.equal(uffd.resolve(memory.address, filled(9)).present, PAGE);
});

fact('K5. faults are read before events that are older', { features: ['event-remove'] }, async (bench) => {
  const uffd = bench.uffd({ features: ['event-remove'] });
  const memory = bench.memory(4);
  uffd.register(memory, 'missing');
  const [dropper, reader] = [await bench.thread(), await bench.thread()];
  const dropped = dropper.drop(pagesOf(memory, 0));
  await until(() => native().descriptorIsReadable(uffd.fd) === 1);
  const read = reader.read(memory, 3);
  await pending(uffd, 1);
  const events: UffdEvent[] = uffd.readEvents();
  assert.deepEqual(
    events.map((event) => event.type),
    ['pagefault', 'remove'],
  );
  assert.equal(await dropped, 0);
  uffd.resolve(at(memory, 3), filled(1));
  assert.equal(await read, 1);
});
