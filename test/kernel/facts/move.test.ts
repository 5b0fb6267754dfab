/** MOVE: fact 16 of docs/kernel.md and what evicting with it meets. Locked memory is not shown: nothing here locks memory. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { constants } from 'node:os';
import { Mapping, scanPages } from 'pagefault/kernel';
import { at, type Bench, errnoOf, fact, faultAt, filled, PAGE, pageNumbers, pagesOf } from '../../helpers/facts.js';

const { EBUSY, EEXIST, EINVAL, ENOENT } = constants.errno;
const needs = { features: ['move'] } as const;

/** Memory with its first page there, and memory to move to. */
function pair(bench: Bench, pages = 2) {
  const uffd = bench.uffd({ features: ['move', 'pagefault-flag-wp', 'wp-unpopulated'] });
  const [memory, aside] = [bench.memory(pages), bench.memory(pages)];
  for (const range of [memory, aside]) uffd.register(range, ['missing', 'write-protect']);
  uffd.copy(memory.address, filled(5));
  return { uffd, memory, aside };
}

fact('16. a move onto a present page is EEXIST', needs, (bench) => {
  const { uffd, memory, aside } = pair(bench);
  uffd.copy(aside.address, filled(6));
  assert.equal(
    errnoOf(() => uffd.move(aside.address, pagesOf(memory, 0))),
    EEXIST,
  );
  assert.deepEqual([new Uint8Array(memory.buffer)[0], new Uint8Array(aside.buffer)[0]], [5, 6]);
});

fact('16. a hole in the source is ENOENT, or passed over with allowHoles', needs, (bench) => {
  const { uffd, memory, aside } = pair(bench);
  assert.equal(
    errnoOf(() => uffd.move(aside.address, pagesOf(memory, 1))),
    ENOENT,
  );
  assert.equal(uffd.move(aside.address, memory, { allowHoles: true }), 2 * PAGE);
  assert.equal(new Uint8Array(aside.buffer)[0], 5);
  assert.equal(uffd.copy(at(aside, 1), filled(7)), PAGE, 'the hole has moved as a hole');
});

fact('16. a page of zeroes moves', needs, (bench) => {
  const { uffd, memory, aside } = pair(bench);
  uffd.zeropage(pagesOf(memory, 1));
  assert.equal(uffd.move(at(aside, 1), pagesOf(memory, 1)), PAGE);
  assert.equal(new Uint8Array(aside.buffer)[PAGE], 0);
});

fact('16. shared memory, and memory that may not be written on either side, are EINVAL', needs, (bench) => {
  const { uffd, memory, aside } = pair(bench);
  const memfd = bench.memfd(1);
  memfd.write(0, filled(1));
  const shared = bench.map(Mapping.memfd(memfd));
  assert.equal(
    errnoOf(() => uffd.move(aside.address, shared)),
    EINVAL,
  );
  for (const protection of ['read', 'none'] as const) {
    memory.protect(protection);
    assert.equal(
      errnoOf(() => uffd.move(aside.address, pagesOf(memory, 0))),
      EINVAL,
      protection,
    );
    memory.protect('read-write');
    aside.protect(protection);
    assert.equal(
      errnoOf(() => uffd.move(aside.address, pagesOf(memory, 0))),
      EINVAL,
      protection,
    );
    aside.protect('read-write');
  }
  assert.equal(uffd.move(aside.address, pagesOf(memory, 0)), PAGE);
});

fact('16. after a fork a page is EBUSY until it is written, even when the child has ended', needs, (bench) => {
  const { uffd, memory, aside } = pair(bench);
  assert.equal(spawnSync('true').status, 0); // libuv forks
  assert.equal(
    errnoOf(() => uffd.move(aside.address, pagesOf(memory, 0))),
    EBUSY,
  );
  new Uint8Array(memory.buffer)[1] = 1;
  assert.equal(uffd.move(aside.address, pagesOf(memory, 0)), PAGE);
});

fact('16. memory that is not inherited moves after a fork', needs, (bench) => {
  const uffd = bench.uffd(needs);
  const [memory, aside] = [0, 1].map(() => bench.map(Mapping.anonymous(PAGE, { inherited: false })));
  if (memory === undefined || aside === undefined) return;
  for (const range of [memory, aside]) uffd.register(range, 'missing');
  uffd.copy(memory.address, filled(5));
  assert.equal(spawnSync('true').status, 0);
  assert.equal(uffd.move(aside.address, memory), PAGE);
});

fact('16. the target must be registered with the descriptor (EINVAL), the source need not be', needs, (bench) => {
  const { uffd, memory, aside } = pair(bench);
  const plain = bench.memory(1);
  assert.equal(
    errnoOf(() => uffd.move(plain.address, pagesOf(memory, 0))),
    EINVAL,
  );
  assert.throws(() => uffd.move(plain.address, pagesOf(memory, 0)), /the target registered with this userfaultfd/);
  new Uint8Array(plain.buffer)[0] = 9;
  assert.equal(uffd.move(aside.address, plain), PAGE);
  assert.equal(new Uint8Array(aside.buffer)[0], 9);
});

fact('16. a page is taken away in one step, is missing at once, and comes back', needs, async (bench) => {
  const { uffd, memory, aside } = pair(bench);
  uffd.writeProtect(pagesOf(memory, 0)); // that does not stand against it
  uffd.move(aside.address, pagesOf(memory, 0));
  const read = (await bench.thread()).read(memory);
  await faultAt(uffd, memory, 0, 'missing');
  uffd.move(memory.address, pagesOf(aside, 0));
  assert.equal(await read, 5);
});

fact('16. a move onto the mark of write protection is EEXIST', { features: ['move', 'wp-unpopulated'] }, (bench) => {
  const { uffd, memory, aside } = pair(bench);
  uffd.writeProtect(pagesOf(aside, 0));
  assert.equal(
    errnoOf(() => uffd.move(aside.address, pagesOf(memory, 0))),
    EEXIST,
  );
});

fact(
  '16. re-arming everything that counts as written leaves marks that stand against a move',
  {
    features: ['move', 'wp-async'],
    scan: true,
  },
  (bench) => {
    const uffd = bench.uffd({ features: ['move', 'wp-async'] });
    const [memory, aside] = [bench.memory(2), bench.memory(2)];
    for (const range of [memory, aside]) uffd.register(range, ['missing', 'write-protect']);
    uffd.copy(memory.address, filled(5, 2));
    assert.deepEqual(
      pageNumbers(aside, scanPages(pagesOf(aside, 0), { all: ['written', 'present'], rearm: true })),
      [],
    );
    assert.equal(uffd.move(aside.address, pagesOf(memory, 0)), PAGE);
    assert.deepEqual(pageNumbers(aside, scanPages(pagesOf(aside, 1), { all: ['written'], rearm: true })), [1]);
    assert.equal(
      errnoOf(() => uffd.move(at(aside, 1), pagesOf(memory, 1))),
      EEXIST,
    );
  },
);
