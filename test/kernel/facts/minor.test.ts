/** Minor faults and CONTINUE: fact 15 of docs/kernel.md. A minor fault that is answered: test/kernel/uffd-pages.test.ts. */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { Mapping, type UffdMode } from 'pagefault/kernel';
import { type Bench, errnoOf, fact, faultAt, filled, PAGE, pagesOf } from '../../helpers/facts.js';

const { EEXIST, EFAULT } = constants.errno;
const needs = { features: ['minor-shmem', 'missing-shmem'] } as const;

function shared(bench: Bench, modes: UffdMode[] = ['missing', 'minor']) {
  const uffd = bench.uffd(needs);
  const memfd = bench.memfd(3);
  const memory = bench.map(Mapping.memfd(memfd));
  memory.advise('nohugepage');
  uffd.register(memory, modes);
  return { uffd, memfd, memory, bytes: new Uint8Array(memory.buffer) };
}

fact('15. continue maps what the object has: again it is EEXIST, of a hole EFAULT', needs, (bench) => {
  const { uffd, memfd, memory, bytes } = shared(bench);
  memfd.write(0, filled(6));
  assert.equal(uffd.continue(pagesOf(memory, 0)), PAGE);
  assert.equal(bytes[0], 6);
  assert.equal(
    errnoOf(() => uffd.continue(pagesOf(memory, 0))),
    EEXIST,
  );
  assert.equal(
    errnoOf(() => uffd.continue(pagesOf(memory, 1))),
    EFAULT,
  );
});

fact(
  '15. without the mode minor what the object has is mapped without a fault, and continue is not told of but works',
  needs,
  async (bench) => {
    const { uffd, memfd, memory } = shared(bench, ['missing']);
    memfd.write(0, filled(6, 2));
    assert.equal(uffd.register(memory, 'missing').has('continue'), false);
    assert.equal(uffd.continue(pagesOf(memory, 1)), PAGE);
    assert.equal(await (await bench.thread()).read(memory), 6);
    assert.equal(uffd.readEvent(), undefined);
  },
);

fact('15. a copy onto a page that the object has is EEXIST, whether or not it is mapped', needs, (bench) => {
  const { uffd, memfd, memory } = shared(bench);
  memfd.write(0, filled(6));
  assert.equal(
    errnoOf(() => uffd.copy(memory.address, filled(7))),
    EEXIST,
  );
});

fact(
  '15. reading a hole through another mapping allocates it; writing to the object fills it',
  needs,
  async (bench) => {
    const { uffd, memfd, memory } = shared(bench);
    const alias = bench.map(Mapping.memfd(memfd));
    assert.equal(new Uint8Array(alias.buffer)[0], 0);
    assert.equal(
      errnoOf(() => uffd.copy(memory.address, filled(7))),
      EEXIST,
      'the look has put zeroes there',
    );
    memfd.write(PAGE, filled(8));
    const read = (await bench.thread()).read(memory, 1);
    await faultAt(uffd, memory, 1, 'minor');
    uffd.continue(pagesOf(memory, 1));
    assert.equal(await read, 8);
  },
);
