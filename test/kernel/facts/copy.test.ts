/** COPY and ZEROPAGE: facts 6 to 8 of docs/kernel.md. */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { native } from '#dist/native/load.js';
import { until } from '../../helpers/descriptors.js';
import {
  at,
  type Bench,
  errnoOf,
  fact,
  faultAt,
  filled,
  inChild,
  PAGE,
  pagesOf,
  stillWaits,
} from '../../helpers/facts.js';
import { nextEvent } from '../../helpers/toucher.js';

const { EAGAIN, EEXIST, EFAULT, EINVAL, ENOENT } = constants.errno;

function missing(bench: Bench, pages: number) {
  const uffd = bench.uffd();
  const memory = bench.memory(pages);
  uffd.register(memory, 'missing');
  return { uffd, memory, bytes: new Uint8Array(memory.buffer) };
}

fact('6. UFFDIO_COPY onto a present page is EEXIST and leaves it alone', {}, (bench) => {
  const { uffd, memory, bytes } = missing(bench, 1);
  uffd.copy(memory.address, filled(1));
  assert.equal(
    errnoOf(() => uffd.copy(memory.address, filled(2))),
    EEXIST,
  );
  assert.equal(
    errnoOf(() => uffd.zeropage(memory)),
    EEXIST,
  );
  assert.equal(bytes[0], 1);
});

fact('6. a copy that runs into a present page stops there, and from there it is EEXIST', {}, (bench) => {
  const { uffd, memory, bytes } = missing(bench, 4);
  uffd.copy(at(memory, 2), filled(9));
  const copy = (page: number): number =>
    native().uffdCopy(uffd.fd, at(memory, page), filled(1, 4), (4 - page) * PAGE, 0);
  assert.equal(copy(0), 2 * PAGE);
  assert.equal(copy(2), -EEXIST);
  assert.equal(copy(3), PAGE);
  assert.deepEqual([bytes[0], bytes[PAGE], bytes[2 * PAGE], bytes[3 * PAGE]], [1, 1, 9, 1]);
});

fact('6. a copy that leaves what is registered is ENOENT, and nothing is copied', {}, (bench) => {
  const { uffd, memory } = missing(bench, 4);
  const other = bench.memory(1);
  uffd.unregister(pagesOf(memory, 2, 2));
  assert.equal(native().uffdCopy(uffd.fd, other.address, filled(1), PAGE, 0), -ENOENT);
  assert.equal(native().uffdCopy(uffd.fd, at(memory, 1), filled(1, 2), 2 * PAGE, 0), -ENOENT);
  assert.equal(uffd.copy(memory.address, filled(1, 2)), 2 * PAGE, 'nothing had been copied');
});

fact('6, K6. copying write-protected into a range without that mode is EINVAL', {}, (bench) => {
  const { uffd, memory } = missing(bench, 1);
  assert.equal(
    errnoOf(() => uffd.copy(memory.address, filled(1), { writeProtect: true })),
    EINVAL,
  );
});

fact('6. a source need not be aligned, but must be readable: EFAULT', {}, (bench) => {
  const { uffd, memory, bytes } = missing(bench, 2);
  uffd.copy(memory.address, new Uint8Array(PAGE + 5).fill(3).subarray(5));
  assert.equal(bytes[PAGE - 1], 3);
  const closed = bench.memory(1);
  closed.protect('none');
  assert.equal(
    errnoOf(() => uffd.copy(at(memory, 1), closed)),
    EFAULT,
  );
});

fact('6. a source that a userfaultfd with sigbus has to bring is EFAULT', { features: ['sigbus'] }, (bench) => {
  const { uffd, memory } = missing(bench, 1);
  const source = bench.memory(1);
  bench.uffd({ features: ['sigbus'] }).register(source, 'missing');
  assert.equal(
    errnoOf(() => uffd.copy(memory.address, source)),
    EFAULT,
  );
});

fact(
  '6. a source that the copying thread itself would have to bring stops it for ever',
  { kernelFaults: true },
  async () => {
    const { signal, stdout } = await inChild(
      ({ kernel, fs }) => {
        const memory = kernel.Mapping.anonymous(2 * kernel.pageSize());
        const uffd = kernel.Uffd.open({ userModeOnly: false });
        uffd.register(memory, 'missing');
        fs.writeSync(1, 'copying');
        uffd.copy(memory.address, {
          address: memory.address + BigInt(kernel.pageSize()),
          byteLength: kernel.pageSize(),
        });
        return 'through';
      },
      null,
      2500,
    );
    assert.deepEqual([signal, stdout], ['SIGKILL', 'copying']);
  },
);

fact('7, K3. while an event is unread everything is EAGAIN', { features: ['event-remove'] }, async (bench) => {
  const uffd = bench.uffd({ features: ['event-remove'] });
  const memory = bench.memory(4);
  uffd.register(memory, 'missing');
  const dropped = (await bench.thread()).drop(pagesOf(memory, 0));
  await until(() => native().descriptorIsReadable(uffd.fd) === 1);
  // on other pages too; -EAGAIN, and the count of the call is not above 0
  assert.equal(native().uffdCopy(uffd.fd, at(memory, 3), filled(1), PAGE, 0), -EAGAIN);
  assert.equal(native().uffdZeropage(uffd.fd, at(memory, 3), PAGE, 0), -EAGAIN);
  assert.equal(uffd.resolve(at(memory, 3), filled(1)).status, 'again');
  assert.equal((await nextEvent(uffd)).type, 'remove');
  await dropped;
  assert.deepEqual(uffd.resolve(at(memory, 3), filled(1)).status, 'done');
});

fact(
  '7. EAGAIN may last a moment longer than the event, until its maker has run',
  { features: ['event-remove'] },
  async (bench) => {
    const uffd = bench.uffd({ features: ['event-remove'] });
    const memory = bench.memory(64);
    uffd.register(memory, 'missing');
    const thread = await bench.thread();
    for (let page = 0; page < 64; page++) {
      const dropped = thread.drop(pagesOf(memory, 0));
      await until(() => native().descriptorIsReadable(uffd.fd) === 1);
      assert.equal(uffd.readEvent()?.type, 'remove');
      // the plain call may or may not succeed now; resolve waits, for as long as it waits at all
      while (uffd.resolve(at(memory, page), filled(1)).status === 'again') await sleep(1);
      await dropped;
    }
  },
);

fact('K4. EAGAIN with progress is told as the progress', {}, (bench) => {
  const { uffd, memory } = missing(bench, 3);
  uffd.copy(at(memory, 2), filled(9));
  assert.throws(() => uffd.copy(memory.address, filled(1, 3)), {
    code: 'ERR_PAGEFAULT_PARTIALLY_COPIED',
    copied: 2 * PAGE,
    errno: EEXIST,
  });
});

fact('K7. EEXIST wakes nobody', {}, async (bench) => {
  const { uffd, memory } = missing(bench, 1);
  const read = (await bench.thread()).read(memory);
  await faultAt(uffd, memory, 0);
  uffd.copy(memory.address, filled(4), { wake: false });
  assert.equal(
    errnoOf(() => uffd.copy(memory.address, filled(5))),
    EEXIST,
  );
  assert.ok(await stillWaits(read));
  uffd.wake(memory);
  assert.equal(await read, 4);
});

fact('8. a copy replaces the mark of poison', { features: ['poison'] }, (bench) => {
  const uffd = bench.uffd({ features: ['poison'] });
  const memory = bench.memory(1);
  uffd.register(memory, 'missing');
  uffd.poison(memory);
  assert.equal(uffd.copy(memory.address, filled(3)), PAGE);
  assert.equal(new Uint8Array(memory.buffer)[0], 3);
});

fact('8. a copy replaces the mark of write protection', { features: ['wp-unpopulated'] }, async (bench) => {
  const uffd = bench.uffd({ features: ['pagefault-flag-wp', 'wp-unpopulated'] });
  const memory = bench.memory(1);
  uffd.register(memory, ['missing', 'write-protect']);
  uffd.writeProtect(memory);
  assert.equal(uffd.copy(memory.address, filled(3)), PAGE);
  assert.equal(await (await bench.thread()).write(memory, 0, 4), 4);
  assert.equal(uffd.readEvent(), undefined, 'it was no longer protected');
});

fact(
  '8. zeroes do not replace a mark: EEXIST although no page is there, until resolve() copies them',
  {
    features: ['wp-unpopulated', 'poison'],
  },
  async (bench) => {
    const uffd = bench.uffd({ features: ['pagefault-flag-wp', 'wp-unpopulated', 'poison'] });
    const memory = bench.memory(3);
    uffd.register(memory, ['missing', 'write-protect']);
    uffd.writeProtect(pagesOf(memory, 0));
    uffd.poison(pagesOf(memory, 1));
    const read = (await bench.thread()).read(memory);
    await faultAt(uffd, memory, 0);
    for (const page of [0, 1])
      assert.equal(
        errnoOf(() => uffd.zeropage(pagesOf(memory, page))),
        EEXIST,
      );
    uffd.wake(memory);
    await faultAt(uffd, memory, 0); // nothing is there
    const bytes = 3 * PAGE;
    assert.deepEqual(uffd.resolve(memory.address, 'zero', { byteLength: bytes }), {
      status: 'done',
      byteLength: bytes,
      copied: bytes,
      present: 0,
    });
    assert.equal(await read, 0);
    assert.equal(uffd.resolve(memory.address, 'zero', { byteLength: bytes }).present, bytes);
  },
);
