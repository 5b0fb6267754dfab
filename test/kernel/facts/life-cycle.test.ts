/** Closing, forking, dropping, moving: fact 18 of docs/kernel.md, and what a pager of another process meets (K1, K2, K8, K13). */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { constants } from 'node:os';
import { closeFd, Uffd, type UffdEvent, type UffdFeature, UnixSocket } from 'pagefault/kernel';
import { native } from '#dist/native/load.js';
import { compileC } from '../../helpers/compile-c.js';
import { until } from '../../helpers/descriptors.js';
import { type Bench, errnoOf, fact, faultAt, filled, inChild, PAGE, pagesOf, stillWaits } from '../../helpers/facts.js';
import { nextEvent } from '../../helpers/toucher.js';

const { EAGAIN, ENOMEM, ESRCH } = constants.errno;

async function waiting(bench: Bench) {
  const uffd = bench.uffd();
  const memory = bench.memory(1);
  uffd.register(memory, 'missing');
  const read = (await bench.thread()).read(memory);
  await faultAt(uffd, memory, 0);
  return { uffd, memory, read };
}

fact('18, K1. closing the last descriptor lets the thread that waits go on, on a page of zeroes', {}, async (bench) => {
  const { uffd, read } = await waiting(bench);
  const second = native().descriptorDuplicate(uffd.fd);
  uffd.close();
  assert.ok(await stillWaits(read), 'there is another descriptor');
  closeFd(second);
  assert.equal(await read, 0);
});

fact('18. unregistering lets the thread that waits go on, on a page of zeroes', {}, async (bench) => {
  const { uffd, memory, read } = await waiting(bench);
  uffd.unregister(memory);
  assert.equal(await read, 0);
});

fact('K1. nobody who reads: the thread waits for ever', {}, async (bench) => {
  const { uffd, memory, read } = await waiting(bench);
  assert.ok(await stillWaits(read, 1500));
  uffd.copy(memory.address, filled(2));
  assert.equal(await read, 2);
});

fact('18. a Worker that waits for a page ends when it has the page, and not before', {}, async (bench) => {
  const uffd = bench.uffd();
  const memory = bench.memory(1);
  uffd.register(memory, 'missing');
  const thread = await bench.thread();
  thread.read(memory).catch(() => undefined);
  await faultAt(uffd, memory, 0);
  const ended = thread.end();
  assert.ok(await stillWaits(ended, 300));
  uffd.copy(memory.address, filled(1));
  await ended;
});

fact('18. the thread that serves stops for ever when it touches a missing page itself', {}, async () => {
  const { signal, stdout } = await inChild(
    ({ kernel, fs }) => {
      const memory = kernel.Mapping.anonymous(kernel.pageSize());
      const uffd = kernel.Uffd.open();
      uffd.register(memory, 'missing');
      fs.writeSync(1, 'touching');
      return new Uint8Array(memory.buffer)[0];
    },
    null,
    2500,
  );
  assert.deepEqual([signal, stdout], ['SIGKILL', 'touching']);
});

fact('18. memory that is closed before the descriptor ends the process instead', {}, async () => {
  const url = import.meta.resolve('pagefault/kernel');
  const { signal, stdout } = await inChild(async ({ kernel, fs, Worker }, kernelUrl) => {
    const memory = kernel.Mapping.anonymous(kernel.pageSize());
    const uffd = kernel.Uffd.open();
    uffd.register(memory, 'missing');
    const code = `import { workerData } from 'node:worker_threads';
      import { Mapping } from ${JSON.stringify(kernelUrl)};
      import { writeSync } from 'node:fs';
      writeSync(1, 'read ' + new Uint8Array(Mapping.bufferAt(workerData))[0]);`;
    const { address, byteLength } = memory;
    new Worker(new URL(`data:text/javascript,${encodeURIComponent(code)}`), { workerData: { address, byteLength } });
    while (uffd.readEvent() === undefined) await new Promise((resolve) => setTimeout(resolve, 2));
    fs.writeSync(1, 'waits');
    memory.protect('none');
    uffd.close();
    await new Promise((resolve) => setTimeout(resolve, 5000));
  }, url);
  assert.deepEqual([signal, stdout], ['SIGSEGV', 'waits']);
});

fact('18, K2. dropping pages waits until the event is read', { features: ['event-remove'] }, async (bench) => {
  const uffd = bench.uffd({ features: ['event-remove'] });
  const memory = bench.memory(1);
  uffd.register(memory, 'missing');
  const dropped = (await bench.thread()).drop(memory);
  assert.ok(await stillWaits(dropped, 300));
  assert.equal((await nextEvent(uffd)).type, 'remove');
  assert.equal(await dropped, 0);
});

fact(
  '18. the thread that reads the events stops for ever when it drops pages itself',
  {
    features: ['event-remove'],
  },
  async () => {
    const { signal, stdout } = await inChild(
      ({ kernel, fs }) => {
        const memory = kernel.Mapping.anonymous(kernel.pageSize());
        const uffd = kernel.Uffd.open({ features: ['event-remove'] });
        uffd.register(memory, 'missing');
        fs.writeSync(1, 'dropping');
        memory.advise('dontneed');
        return 'through';
      },
      null,
      2500,
    );
    assert.deepEqual([signal, stdout], ['SIGKILL', 'dropping']);
  },
);

fact(
  '18. with event-fork, the thread that reads the events stops for ever when it starts a process',
  {
    features: ['event-fork'],
  },
  async () => {
    const { signal, stdout } = await inChild(
      ({ kernel, fs, spawnSync }) => {
        const memory = kernel.Mapping.anonymous(kernel.pageSize());
        const uffd = kernel.Uffd.open({ features: ['event-fork'] });
        uffd.register(memory, 'missing');
        fs.writeSync(1, 'starting');
        return spawnSync('true').status;
      },
      null,
      2500,
    );
    assert.deepEqual([signal, stdout], ['SIGKILL', 'starting']);
  },
);

/** A process in C whose memory this one pages. `go` makes it do what it is for. */
async function guest(bench: Bench, features: number, what: 'fork' | 'move' | 'tail' | 'wait') {
  const [ours, theirs] = UnixSocket.pair();
  bench.undo(() => ours.close());
  const child = spawn(compileC('mover.c'), [String(features), what], {
    stdio: ['ignore', 'ignore', 'inherit', theirs.fd],
  });
  const exited = once(child, 'exit') as Promise<[number | null, string | null]>;
  bench.undo(() => child.kill('SIGKILL'));
  theirs.close();
  await until(() => {
    ours.fill();
    return ours.available === 16;
  });
  const [address = 0n, place = 0n] = new BigUint64Array((ours.read(16) as Uint8Array).slice().buffer);
  const uffd = bench.keep(Uffd.fromFd(ours.takeFd() as number));
  const memory = { address, byteLength: 2 * PAGE };
  return { uffd, memory, place, child, exited, go: () => ours.send(new Uint8Array(1)) };
}

fact('18. a forked child sees zeroes where pages were missing', {}, async (bench) => {
  const { uffd, go, exited } = await guest(bench, 0, 'fork');
  go();
  assert.deepEqual(await exited, [0, null]);
  assert.equal(uffd.readEvent(), undefined, 'nobody was asked');
});

fact('18. mremap takes the memory away from the userfaultfd: it reads zeroes', {}, async (bench) => {
  const { uffd, go, exited } = await guest(bench, 0, 'move');
  go();
  assert.deepEqual(await exited, [0, null]);
  assert.equal(uffd.readEvent(), undefined, 'nobody was asked');
});

const features: UffdFeature[] = ['event-remap', 'event-unmap'];
const BITS = 0x44;

fact(
  'K13. a move is told as remap of the old length, then unmap of the old place; what was added is registered too',
  {
    features,
  },
  async (bench) => {
    const { uffd, memory, place, go, exited } = await guest(bench, BITS, 'tail');
    go();
    const events: UffdEvent[] = [await nextEvent(uffd), await nextEvent(uffd)];
    const end = memory.address + BigInt(memory.byteLength);
    assert.deepEqual(events, [
      { type: 'remap', from: memory.address, to: place, byteLength: 2 * PAGE },
      { type: 'unmap', start: memory.address, end },
    ]);
    const fault = await nextEvent(uffd);
    assert.equal(fault.type === 'pagefault' && fault.address, place + BigInt(2 * PAGE));
    while (uffd.resolve(place + BigInt(2 * PAGE), filled(9)).status === 'again');
    assert.deepEqual(await exited, [9, null]);
  },
);

fact('K8. of a process that has ended everything is ESRCH, and unregistering ENOMEM', {}, async (bench) => {
  const { uffd, memory, child, exited } = await guest(bench, 0, 'wait');
  assert.equal(uffd.copy(memory.address, filled(1)), PAGE);
  child.kill('SIGKILL');
  await exited;
  assert.equal(
    errnoOf(() => uffd.copy(memory.address, filled(1))),
    ESRCH,
  );
  assert.equal(
    errnoOf(() => uffd.zeropage(pagesOf(memory, 1))),
    ESRCH,
  );
  assert.equal(
    errnoOf(() => uffd.unregister(memory)),
    ENOMEM,
  );
  assert.deepEqual(uffd.resolve(memory.address, 'zero').status, 'gone');
  assert.equal(native().uffdRead(uffd.fd, new Uint8Array(32)), -EAGAIN, 'its end is not an event: watch the process');
});

fact('4. a userfaultfd belongs to the memory of the process that made it', {}, async (bench) => {
  const { uffd } = await guest(bench, 0, 'wait');
  const own = bench.memory(1);
  assert.notEqual(
    errnoOf(() => uffd.register(own, 'missing')),
    0,
  );
});
