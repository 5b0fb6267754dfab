/** Write protection: facts 9 to 12 of docs/kernel.md. */
import assert from 'node:assert/strict';
import { constants } from 'node:os';
import { Mapping, scanPages, scanWritten, type UffdFeature } from 'pagefault/kernel';
import { native } from '#dist/native/load.js';
import { at, type Bench, errnoOf, fact, faultAt, filled, PAGE, pageNumbers, pagesOf } from '../../helpers/facts.js';

const { EINVAL, ENOENT } = constants.errno;
const WP: UffdFeature = 'pagefault-flag-wp';

function protectable(bench: Bench, pages: number, features: UffdFeature[] = [WP]) {
  const uffd = bench.uffd({ features });
  const memory = bench.memory(pages);
  uffd.register(memory, ['missing', 'write-protect']);
  return { uffd, memory };
}

fact(
  '9. the write to a missing page is one fault where it arrives writable, two where it arrives protected',
  {
    features: [WP],
  },
  async (bench) => {
    const { uffd, memory } = protectable(bench, 2);
    const thread = await bench.thread();
    const first = thread.write(memory, 0, 7);
    await faultAt(uffd, memory, 0, 'missing', 'write');
    uffd.copy(memory.address, filled(1));
    assert.equal(await first, 7);
    const second = thread.write(memory, 1, 8);
    await faultAt(uffd, memory, 1, 'missing', 'write');
    uffd.copy(at(memory, 1), filled(1), { writeProtect: true });
    await faultAt(uffd, memory, 1, 'write-protect', 'write');
    uffd.removeWriteProtection(pagesOf(memory, 1));
    assert.equal(await second, 8);
    assert.equal(uffd.readEvent(), undefined);
  },
);

fact(
  '9. with wp-async the write to a page that arrives protected is only recorded',
  {
    features: ['wp-async'],
    scan: true,
  },
  async (bench) => {
    const { uffd, memory } = protectable(bench, 2, ['wp-async']);
    const written = (await bench.thread()).write(memory, 0, 8);
    await faultAt(uffd, memory, 0, 'missing', 'write');
    uffd.copy(memory.address, filled(1, 2), { writeProtect: true });
    assert.equal(await written, 8);
    assert.equal(uffd.readEvent(), undefined);
    assert.deepEqual(pageNumbers(memory, scanWritten(memory)), [0]);
  },
);

fact(
  '10. protecting pages that were never touched does nothing without wp-unpopulated',
  {
    features: ['wp-unpopulated'],
  },
  async (bench) => {
    const thread = await bench.thread();
    for (const features of [[WP], [WP, 'wp-unpopulated']] as UffdFeature[][]) {
      const uffd = bench.uffd({ features });
      const memory = bench.memory(1);
      uffd.register(memory, 'write-protect');
      uffd.writeProtect(memory);
      const write = thread.write(memory, 0, 3);
      if (features.length === 2) {
        await faultAt(uffd, memory, 0, 'write-protect', 'write');
        uffd.removeWriteProtection(memory);
      }
      assert.equal(await write, 3);
      assert.equal(uffd.readEvent(), undefined);
    }
  },
);

fact(
  '10. protecting what is not registered for it is ENOENT; protecting without a wake is EINVAL',
  { features: [WP] },
  (bench) => {
    const { uffd, memory } = protectable(bench, 1);
    const missingOnly = bench.memory(1);
    uffd.register(missingOnly, 'missing');
    assert.equal(
      errnoOf(() => uffd.writeProtect(missingOnly)),
      ENOENT,
    );
    assert.equal(native().uffdWriteProtect(uffd.fd, memory.address, PAGE, 3), -EINVAL);
  },
);

fact('11. dropping private pages loses their protection', { features: ['wp-unpopulated'] }, async (bench) => {
  const uffd = bench.uffd({ features: [WP, 'wp-unpopulated'] });
  const memory = bench.memory(1);
  new Uint8Array(memory.buffer)[0] = 1;
  uffd.register(memory, 'write-protect');
  uffd.writeProtect(memory);
  memory.advise('dontneed');
  assert.equal(await (await bench.thread()).write(memory, 0, 2), 2);
  assert.equal(uffd.readEvent(), undefined);
});

fact(
  '11. dropping shared pages, or punching a hole, keeps their protection',
  {
    features: ['wp-hugetlbfs-shmem'],
  },
  async (bench) => {
    const uffd = bench.uffd({ features: [WP, 'wp-hugetlbfs-shmem'] });
    const memfd = bench.memfd(2);
    memfd.write(0, filled(1, 2));
    const memory = bench.map(Mapping.memfd(memfd));
    memory.advise('populate-read');
    uffd.register(memory, 'write-protect');
    uffd.writeProtect(memory);
    memory.advise('dontneed', 0, PAGE);
    memfd.punchHole(PAGE, PAGE);
    const thread = await bench.thread();
    for (const page of [0, 1]) {
      const write = thread.write(memory, page, 5);
      await faultAt(uffd, memory, page, 'write-protect', 'write');
      uffd.removeWriteProtection(pagesOf(memory, page));
      assert.equal(await write, 5);
    }
  },
);

fact('11. a move loses the protection', { features: ['wp-async', 'move'], scan: true }, (bench) => {
  const uffd = bench.uffd({ features: ['wp-async', 'move'] });
  const [memory, aside] = [bench.memory(1), bench.memory(1)];
  for (const range of [memory, aside]) uffd.register(range, ['missing', 'write-protect']);
  uffd.copy(memory.address, filled(1), { writeProtect: true });
  assert.deepEqual(scanWritten(memory), []);
  uffd.move(aside.address, memory);
  assert.deepEqual(pageNumbers(aside, scanPages(aside, { all: ['written', 'present'] })), [0]);
});

fact(
  '12. protection is of one mapping: writes through another one, or to the object, are not seen',
  {
    features: ['wp-async'],
    scan: true,
  },
  (bench) => {
    const uffd = bench.uffd({ features: ['wp-async'] });
    const memfd = bench.memfd(4);
    memfd.write(0, filled(1, 4));
    const [memory, alias] = [bench.map(Mapping.memfd(memfd)), bench.map(Mapping.memfd(memfd))];
    memory.advise('populate-read');
    uffd.register(memory, 'write-protect');
    uffd.writeProtect(memory);
    new Uint8Array(alias.buffer)[0] = 2;
    memfd.write(PAGE, filled(2));
    const bytes = new Uint8Array(memory.buffer);
    bytes[2 * PAGE] = 2;
    assert.deepEqual([bytes[0], bytes[PAGE]], [2, 2]);
    assert.deepEqual(pageNumbers(memory, scanWritten(memory)), [2]);
  },
);
