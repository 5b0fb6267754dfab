/** POISON: fact 17 of docs/kernel.md. */
import assert from 'node:assert/strict';
import { closeSync, openSync, readSync } from 'node:fs';
import { constants } from 'node:os';
import { Mapping } from 'pagefault/kernel';
import { type Bench, errnoOf, fact, faultAt, filled, inChild, PAGE } from '../../helpers/facts.js';

const { EEXIST, EFAULT } = constants.errno;
const EHWPOISON = 133;
const needs = { features: ['poison'] } as const;

function poisoned(bench: Bench) {
  const uffd = bench.uffd(needs);
  const memory = bench.memory(1);
  uffd.register(memory, 'missing');
  assert.equal(uffd.poison(memory), PAGE);
  return { uffd, memory };
}

fact('17. the touch of a poisoned page ends the process with SIGBUS', needs, async () => {
  const { signal, stdout } = await inChild(({ kernel, fs }) => {
    const memory = kernel.Mapping.anonymous(kernel.pageSize());
    const uffd = kernel.Uffd.open({ features: ['poison'] });
    uffd.register(memory, 'missing');
    uffd.poison(memory);
    fs.writeSync(1, 'touching');
    return new Uint8Array(memory.buffer)[0];
  }, null);
  assert.deepEqual([signal, stdout], ['SIGBUS', 'touching']);
});

fact('17. a system call on a poisoned page fails, with EFAULT or EHWPOISON', needs, (bench) => {
  const { memory } = poisoned(bench);
  const zero = openSync('/dev/zero', 'r');
  bench.undo(() => closeSync(zero));
  const errno = errnoOf(() => readSync(zero, new Uint8Array(memory.buffer), 0, 1, null));
  assert.ok(errno === EFAULT || errno === EHWPOISON, String(errno));
});

fact('17. poison on a present page, or twice, is EEXIST', needs, (bench) => {
  const { uffd, memory } = poisoned(bench);
  assert.equal(
    errnoOf(() => uffd.poison(memory)),
    EEXIST,
  );
  uffd.copy(memory.address, filled(2));
  assert.equal(
    errnoOf(() => uffd.poison(memory)),
    EEXIST,
  );
  assert.equal(new Uint8Array(memory.buffer)[0], 2);
});

fact('17. dropping a poisoned page makes it missing again', needs, async (bench) => {
  const { uffd, memory } = poisoned(bench);
  memory.advise('dontneed');
  const read = (await bench.thread()).read(memory);
  await faultAt(uffd, memory, 0);
  uffd.copy(memory.address, filled(3));
  assert.equal(await read, 3);
});

fact(
  '17. poison is EEXIST on a mark of write protection too',
  {
    features: ['poison', 'wp-unpopulated'],
  },
  (bench) => {
    const uffd = bench.uffd({ features: ['poison', 'pagefault-flag-wp', 'wp-unpopulated'] });
    const memory = bench.memory(1);
    uffd.register(memory, ['missing', 'write-protect']);
    uffd.writeProtect(memory);
    assert.equal(
      errnoOf(() => uffd.poison(memory)),
      EEXIST,
    );
  },
);

fact(
  '17. continue heals a poisoned page, once the object has it',
  {
    features: ['poison', 'minor-shmem'],
  },
  (bench) => {
    const uffd = bench.uffd({ features: ['poison', 'minor-shmem'] });
    const memfd = bench.memfd(1);
    const memory = bench.map(Mapping.memfd(memfd));
    uffd.register(memory, ['missing', 'minor']);
    uffd.poison(memory);
    assert.equal(
      errnoOf(() => uffd.continue(memory)),
      EFAULT,
    );
    memfd.write(0, filled(1));
    assert.equal(uffd.continue(memory), PAGE);
    assert.equal(new Uint8Array(memory.buffer)[0], 1);
  },
);
